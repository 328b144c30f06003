"""Which files may a sandbox child touch? It reads the interpreter and packages, and writes none.

Landlock, since Linux 5.13, holds for root too; older kernels give no such protection.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_IOCTL_DEV = 1 << 15
_CONNECT_BIND_TCP = 0b11
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11
#: Rights to files that a kernel's Landlock version knows: each version adds to them.
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}

_APP = Path(__file__).parent.parent
_SYSTEM = ("/usr", "/lib", "/lib64", "/opt", "/etc/ld.so.cache", "/etc/localtime", "/proc", "/sys")
_DEVICES = ("null", "zero", "random", "urandom")


def readable_paths() -> tuple[Path, ...]:
    """What running a circuit may read: this package, the interpreter, its packages, the system's.

    The folder the service lies in is left out: the local stack keeps everybody's jobs there.
    """
    ours = {_APP.parent, Path("/")}
    found = {Path(sys.prefix), Path(sys.base_prefix), _APP, *map(Path, (*sys.path, *_SYSTEM))}
    return tuple(sorted(path for path in found if path not in ours and path.exists()))


def devices(*, gpu: bool, folder: Path = Path("/dev")) -> tuple[Path, ...]:
    """What it may read and write: nothing that keeps anything, and GPUs if they are its work."""
    named = [folder / name for name in _DEVICES]
    gpus = sorted(folder.glob("nvidia*")) if gpu else []
    return (*(path for path in named if path.exists()), *gpus)


def restrict(readable: Iterable[Path], usable: Iterable[Path]) -> bool:
    """Allow this process these files from now on, and no others; whether the kernel can do it.

    A process restricted so can neither look into one that is not, nor send it a signal.
    ``no_new_privs`` must be set before.

    Args:
        readable: files and folders to read.
        usable: devices to read and write.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if version < 1:
        return False
    rights = _RIGHTS[max(known for known in _RIGHTS if known <= version)]
    network = _CONNECT_BIND_TCP if version >= 4 else 0
    scope = _ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0
    attributes = struct.pack("=QQQ", rights, network, scope)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    for path in readable:
        _allow(libc, ruleset, path, _READ_FILE | _READ_DIR)
    for path in usable:
        _allow(libc, ruleset, path, (_WRITE_FILE | _READ_FILE | _READ_DIR | _IOCTL_DEV) & rights)
    enforced = bool(libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0)
    os.close(ruleset)
    return enforced


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    # A rule about a file may not speak of folders.
    granted = rights if path.is_dir() else rights & ~_READ_DIR
    libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", granted, descriptor), 0)
    os.close(descriptor)
