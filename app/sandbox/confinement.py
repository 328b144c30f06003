"""What is a sandbox child forbidden? Everything it does not need, before it sees its first job."""

from __future__ import annotations

import ctypes
import os
import platform
import pwd
import resource
import signal
import struct
import sys
from contextlib import suppress
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_CLONE_NEWNET = 0x40000000

#: Children of a root worker run as this user plus their slot's number: nobody's account.
FIRST_UID = 64000
#: Threads that a child of its own user may have: libgomp's, BLAS's, and some to spare.
_MOST_THREADS = 256

# Classic BPF over ``struct seccomp_data``: number at 0, architecture at 4 (linux/seccomp.h).
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001  # SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO | EPERM
_X32 = 0x40000000

#: System calls a circuit never needs, by machine: the architecture's audit number and the calls'.
#: Order: socket socketpair bind listen accept accept4 connect | ptrace process_vm_readv/writev
#: kill pidfd_send_signal pidfd_getfd | execve execveat | mount umount2 pivot_root chroot unshare
#: setns | bpf perf_event_open userfaultfd io_uring_setup/enter/register | keyctl add_key
#: request_key | init_module finit_module delete_module kexec_load open_by_handle_at
_FORBIDDEN: dict[str, tuple[int, tuple[int, ...]]] = {
    "x86_64": (
        0xC000003E,
        (
            *(41, 53, 49, 50, 43, 288, 42),
            *(101, 310, 311, 62, 424, 438),
            *(59, 322),
            *(165, 166, 155, 161, 272, 308),
            *(321, 298, 323, 425, 426, 427),
            *(250, 248, 249),
            *(175, 313, 176, 246, 304),
        ),
    ),
    "aarch64": (
        0xC00000B7,
        (
            *(198, 199, 200, 201, 202, 242, 203),
            *(117, 270, 271, 129, 424, 438),
            *(221, 281),
            *(40, 39, 41, 51, 97, 268),
            *(280, 241, 282, 425, 426, 427),
            *(219, 217, 218),
            *(105, 273, 106, 104, 265),
        ),
    ),
}


def confine(
    *, parent: int, slot: int, own_user: bool, memory_bytes: int, open_files: int
) -> None:
    """Give up, for good, everything that running a circuit does not need.

    Args:
        parent: process id of the zygote: the child dies with it.
        slot: number of the slot.
        own_user: whether the child takes a user id of its own; only root can give one.
        memory_bytes: how much the child may grow beyond what it was forked with.
        open_files: how many files it may have open.
    """
    # A victim for the kernel, should memory run out: this process before any other.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    _limit(memory_bytes=memory_bytes, open_files=open_files)
    if sys.platform != "linux":
        return
    if os.getuid() == 0:
        # Refused in most containers; the filter below forbids sockets there all the same.
        _LIBC.unshare(_CLONE_NEWNET)
    if own_user:
        resource.setrlimit(resource.RLIMIT_NPROC, (_MOST_THREADS, _MOST_THREADS))
        _become(_unused_uid(slot))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # After the change of user: that clears it.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    _prctl(_PR_SET_DUMPABLE, 0)
    _filter_system_calls()


def _limit(*, memory_bytes: int, open_files: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    address_space = pages * resource.getpagesize() + memory_bytes
    for kind, most in (
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, open_files),
    ):
        _, hard = resource.getrlimit(kind)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (allowed, allowed))


def limit_cpu(seconds: float) -> None:
    """Let this process use so much more processor time: a net below the worker's own clock."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))


def _unused_uid(slot: int) -> int:
    uid = FIRST_UID + slot
    with suppress(KeyError):
        while pwd.getpwuid(uid):
            uid += 1000
    return uid


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _filter_system_calls() -> None:
    known = _FORBIDDEN.get(platform.machine())
    if known is None:
        return
    architecture, forbidden = known
    # Jumps count from the next instruction; the two returns stand at the end.
    length = 4 + len(forbidden) + 1
    refuse = length
    program = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 0, refuse - 2, architecture),
        (_LOAD, 0, 0, 0),
        (_AT_LEAST, refuse - 4, 0, _X32),
    ]
    program += [
        (_EQUAL, refuse - (5 + i), 0, number) for i, number in enumerate(forbidden)
    ]
    program += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_program = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    pointer = ctypes.create_string_buffer(filter_program, len(filter_program))
    if _LIBC.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, pointer, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")
