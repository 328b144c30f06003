"""Which GPUs has a worker? Asked in a process of its own: CUDA does not survive a fork."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import ConfigurationInvalid
from app.executors.engines.devices import Gpu
from app.executors.engines.probe import MEASURE, Survey

if TYPE_CHECKING:
    from collections.abc import Sequence

#: the executor that has a GPU, and its worker for itself: one slot for each GPU.
CUSTATEVEC = "custatevec"

_ROOT = Path(__file__).parent.parent.parent
#: Starting Python and CUDA; with measurements, also a dozen simulations of up to 22 qubits.
_TIMEOUT_S = 60.0
_MEASURED_TIMEOUT_S = 240.0
_SAID_CHARS = 200
#: Devices of NVIDIA's driver, and of the one for Windows' Linux.
_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))


def may_have_gpus() -> bool:
    """Whether it is worth asking: a device file is there, and the bindings are installed."""
    return any(path.exists() for path in _DEVICES) and find_spec("cuquantum") is not None


def survey(*, measure: bool) -> Survey:
    """Find out what GPUs there are.

    Args:
        measure: whether to find out as well from how many qubits on they are worth it.
    """
    command = [sys.executable, "-P", "-m", "app.executors.engines.probe"]
    limit_s = _MEASURED_TIMEOUT_S if measure else _TIMEOUT_S
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            [*command, *([MEASURE] if measure else [])],
            env=os.environ | {"PYTHONPATH": str(_ROOT), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Survey(reason=f"the CUDA driver did not answer for {limit_s:g} s")
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-_SAID_CHARS:]
        return Survey(reason=f"asking for GPUs ended with {done.returncode}: {said}")
    # Native libraries may have printed before.
    document = json.loads(done.stdout.splitlines()[-1])
    gpus = tuple(Gpu(**gpu) for gpu in document.pop("gpus"))
    return Survey(gpus=gpus, **document)


def require_alone(executors: Sequence[str]) -> None:
    """Require that a worker of GPUs serves nothing else: its children may use the GPUs.

    Raises:
        ConfigurationInvalid: it does.
    """
    others = [name for name in executors if name != CUSTATEVEC]
    if others:
        message = (
            f"a worker that serves {CUSTATEVEC!r} serves nothing else: start one with"
            f" QFLEET_EXECUTORS={CUSTATEVEC}, and one with QFLEET_EXECUTORS={','.join(others)}"
        )
        raise ConfigurationInvalid(message)


def names(count: int) -> tuple[str, ...]:
    """Give what the CUDA driver calls the first GPUs that this process sees."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    listed = [name.strip() for name in chosen.split(",") if name.strip()]
    return tuple(listed[:count] if listed else map(str, range(count)))
