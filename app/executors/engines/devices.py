"""Which GPUs are there? The CUDA driver knows; without one, cuStateVec aborts the process.

A process that has asked must not be forked afterwards: only sandbox children and short-lived
processes of their own may.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

#: The driver's own library: it comes with the driver, whatever else is installed.
_DRIVER = "libcuda.so.1"
_NAME_BYTES = 256
_SUCCESS, _OUT_OF_MEMORY = 0, 2
#: Of CUDA, as drivers give it: 1000 × major + 10 × minor. The library that is pinned wants it.
_LEAST_CUDA = 13000


class NoGpu(RuntimeError):
    """There is no GPU that could be used; the message says why."""


class NoMemory(NoGpu):
    """There is one, but its memory is taken."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What the driver says of one GPU."""

    index: int
    name: str
    memory_bytes: int


def find() -> tuple[Gpu, ...]:
    """Give the GPUs that this process may use, at least one.

    Raises:
        NoGpu: there is none, or no driver.
    """
    driver = _driver()
    count = ctypes.c_int()
    _require(driver, driver.cuDeviceGetCount(ctypes.byref(count)), "counts no GPUs")
    if not count.value:
        raise NoGpu("the CUDA driver finds no GPU")
    return tuple(_gpu(driver, index) for index in range(count.value))


def free_bytes(index: int) -> int:
    """Memory of a GPU that nobody uses, once all work is done and all that was freed is back.

    Raises:
        NoGpu: it cannot be used.
    """
    driver = _used(index)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _require(driver, driver.cuCtxSynchronize(), f"has lost GPU {index}")
    _trim(driver, index)
    code = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    _require(driver, code, f"does not say how much memory of GPU {index} is free")
    return free.value


def copy(index: int, *, to: int, source: int, size: int, stream: int) -> None:
    """Copy within the memory of a GPU, after what else is queued on the stream.

    Raises:
        NoGpu: the driver refuses to.
    """
    driver = _used(index)
    code = driver.cuMemcpyDtoDAsync_v2(
        ctypes.c_uint64(to), ctypes.c_uint64(source), ctypes.c_size_t(size), ctypes.c_void_p(stream)
    )
    _require(driver, code, "does not copy a state")


class Workspace:
    """Memory of a GPU, for whoever needs some for a moment; it only grows."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._pointers: list[int] = []
        self._size = 0

    def of(self, size: int) -> int:
        """Give the address of at least so many bytes; 0 for none.

        Raises:
            NoMemory: there is not so much memory.
        """
        if size > self._size:
            # The smaller one may still be in use by calls that are not done.
            pointer, driver = ctypes.c_uint64(), _used(self._index)
            code = driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size))
            _require(driver, code, f"has no {size} bytes for a workspace")
            self._pointers.append(pointer.value)
            self._size = size
        return self._pointers[-1] if size else 0

    def close(self) -> None:
        """Give all of it back."""
        for pointer in self._pointers:
            _used(self._index).cuMemFree_v2(ctypes.c_uint64(pointer))
        self._pointers, self._size = [], 0


@cache
def _driver() -> ctypes.CDLL:
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError as exc:
        raise NoGpu(f"there is no CUDA driver: {_DRIVER} cannot be loaded") from exc
    _require(driver, driver.cuInit(0), "does not start")
    version = ctypes.c_int()
    _require(driver, driver.cuDriverGetVersion(ctypes.byref(version)), "does not say its version")
    if version.value < _LEAST_CUDA:
        major, minor = divmod(version.value // 10, 100)
        message = f"the driver is one for CUDA {major}.{minor}; CUDA 13 needs driver 580 or newer"
        raise NoGpu(message)
    return driver


@cache
def _context(index: int) -> ctypes.c_void_p:
    """The context that cuStateVec uses as well."""
    driver = _driver()
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _require(driver, driver.cuDeviceGet(ctypes.byref(device), index), f"has no GPU {index}")
    code = driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    _require(driver, code, f"cannot use GPU {index}")
    return context


def _used(index: int) -> ctypes.CDLL:
    """Give the driver, to be asked about this GPU by this thread."""
    driver = _driver()
    _require(driver, driver.cuCtxSetCurrent(_context(index)), f"cannot use GPU {index}")
    return driver


def _trim(driver: ctypes.CDLL, index: int) -> None:
    """Have the driver give back what it holds for later; what was freed counts as taken else."""
    device, pool = ctypes.c_int(), ctypes.c_void_p()
    _require(driver, driver.cuDeviceGet(ctypes.byref(device), index), f"has no GPU {index}")
    # Some GPUs have no pools, and say so.
    if driver.cuDeviceGetDefaultMemPool(ctypes.byref(pool), device) == _SUCCESS:
        driver.cuMemPoolTrimTo(pool, ctypes.c_size_t(0))


def _gpu(driver: ctypes.CDLL, index: int) -> Gpu:
    device, size = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    for code in (
        driver.cuDeviceGet(ctypes.byref(device), index),
        driver.cuDeviceGetName(name, _NAME_BYTES, device),
        driver.cuDeviceTotalMem_v2(ctypes.byref(size), device),
    ):
        _require(driver, code, f"says nothing of GPU {index}")
    return Gpu(index=index, name=name.value.decode(errors="replace"), memory_bytes=size.value)


def _require(driver: ctypes.CDLL, code: int, what: str) -> None:
    if code == _SUCCESS:
        return
    text = ctypes.c_char_p()
    driver.cuGetErrorName(code, ctypes.byref(text))
    error = (text.value or b"error %d" % code).decode()
    kind = NoMemory if code == _OUT_OF_MEMORY else NoGpu
    raise kind(f"the CUDA driver {what}: {error}")
