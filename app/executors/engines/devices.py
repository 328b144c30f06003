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
_SUCCESS = 0


class NoGpu(Exception):
    """There is no GPU that could be used; the message says why."""


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
    """Memory of a GPU that nobody uses.

    Raises:
        NoGpu: it cannot be used.
    """
    driver = _driver()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _require(driver, driver.cuCtxSetCurrent(_context(index)), f"cannot use GPU {index}")
    code = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    _require(driver, code, f"does not say how much memory of GPU {index} is free")
    return free.value


def copy(*, to: int, source: int, size: int, stream: int) -> None:
    """Copy within the memory of a GPU, after what else is queued on the stream.

    Raises:
        NoGpu: the driver refuses to.
    """
    driver = _driver()
    code = driver.cuMemcpyDtoDAsync_v2(
        ctypes.c_uint64(to), ctypes.c_uint64(source), ctypes.c_size_t(size), ctypes.c_void_p(stream)
    )
    _require(driver, code, "does not copy a state")


class Workspace:
    """Memory of the GPU in use, for whoever needs some for a moment; it only grows."""

    def __init__(self) -> None:
        self._pointers: list[int] = []
        self._size = 0

    def of(self, size: int) -> int:
        """Give the address of at least so many bytes; 0 for none.

        Raises:
            NoGpu: there is not so much memory.
        """
        if size > self._size:
            # The smaller one may still be in use by calls that are not done.
            pointer = ctypes.c_uint64()
            code = _driver().cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size))
            _require(_driver(), code, f"has no {size} bytes for a workspace")
            self._pointers.append(pointer.value)
            self._size = size
        return self._pointers[-1] if size else 0

    def close(self) -> None:
        """Give all of it back."""
        for pointer in self._pointers:
            _driver().cuMemFree_v2(ctypes.c_uint64(pointer))
        self._pointers, self._size = [], 0


@cache
def _driver() -> ctypes.CDLL:
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError as exc:
        raise NoGpu(f"there is no CUDA driver: {_DRIVER} cannot be loaded") from exc
    _require(driver, driver.cuInit(0), "does not start")
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
    raise NoGpu(f"the CUDA driver {what}: {error}")
