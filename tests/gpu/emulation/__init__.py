"""A GPU on a CPU: the driver and the part of cuStateVec that is used, in C.

NVIDIA's own bindings are loaded; they find these libraries, because a library of the same name is
in the process already. How strict it is, and what it cannot show, is said in the sources.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from enum import IntEnum
from importlib.util import find_spec
from pathlib import Path

#: In the order in which they need each other: library, source, what it is linked with.
_LIBRARIES = (
    ("libcuda.so.1", "cuda.c", ()),
    ("libcublas.so.13", "cublas.c", ()),
    ("libcublasLt.so.13", "cublas.c", ()),
    ("libcustatevec.so.1", "custatevec.c", ("libcuda.so.1",)),
)
_FLAGS = ("-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-shared", "-fPIC")


class Calls(IntEnum):
    """What is counted, in the order of ``custatevec.c``."""

    CREATED = 0
    ENQUEUED = 1
    DIAGONAL = 2
    APPLIED = 3
    SAMPLED = 4
    SUMMED = 5
    EXPECTED = 6
    BATCHED = 7


def missing() -> str | None:
    """What this machine lacks to build and use the emulation."""
    if shutil.which("gcc") is None:
        return "there is no gcc to build the emulation of cuStateVec with"
    if find_spec("cuquantum") is None:
        return "cuquantum-python-cu13 is not installed: see requirements-gpu-bindings.txt"
    return None


def build(folder: Path) -> None:
    """Compile the libraries."""
    for name, source, needed in _LIBRARIES:
        command = ("gcc", *_FLAGS, f"-Wl,-soname,{name}", str(Path(__file__).parent / source))
        libraries = (str(folder / library) for library in needed)
        subprocess.run([*command, "-o", str(folder / name), *libraries, "-lm"], check=True)


class Emulation:
    """The libraries, in this process from now on."""

    def __init__(self, folder: Path) -> None:
        self._libraries = {
            name: ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
            for name, _, _ in _LIBRARIES
        }
        self.folder = folder

    @property
    def _custatevec(self) -> ctypes.CDLL:
        return self._libraries["libcustatevec.so.1"]

    @property
    def _cuda(self) -> ctypes.CDLL:
        return self._libraries["libcuda.so.1"]

    def become(self, *, gpus: int = 1, memory_bytes: int = 1 << 30) -> None:
        """Be another machine."""
        self._cuda.emulated_machine(gpus, ctypes.c_size_t(memory_bytes))

    def scramble_wires(self, *, on: bool = True) -> None:
        """Have updaters leave the wires of a state in another order, as they may."""
        self._custatevec.emulated_scrambling(int(on))

    def calls(self, kind: Calls) -> int:
        """How often something was done so far."""
        return int(self._custatevec.emulated_calls(int(kind)))

    def configured(self, what: str) -> int:
        """``fusion``, ``threads`` or ``devices`` of what was made last."""
        return int(getattr(self._custatevec, f"emulated_{what}")())

    @property
    def bytes_in_use(self) -> int:
        """Device memory that is in use."""
        self._cuda.emulated_bytes_in_use.restype = ctypes.c_size_t
        return int(self._cuda.emulated_bytes_in_use())
