"""How does Aer run a program as a device would? With the noise of the device's own properties."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from app.executors.aer import AerExecutor
from app.executors.noise.device import DeviceNoise

if TYPE_CHECKING:
    from app.executors import Resources
    from app.executors.noise.model import Noise
    from app.primitives.programs import Target

#: Devices whose noise is kept.
_KEPT_DEVICES = 4


def noisy_executor(*, resources: Resources) -> AerExecutor:
    """Make an Aer executor whose targets are noisy; a target without properties is ideal."""
    return AerExecutor(
        resources=resources,
        name="noisy",
        noise_of=_noise_of,
        noiseless="none: the backend has no recorded properties",
    )


@lru_cache(maxsize=_KEPT_DEVICES)
def _noise_of(target: Target) -> Noise | None:
    if target.recording is None:
        return None
    return DeviceNoise(name=target.name, recording=target.recording)
