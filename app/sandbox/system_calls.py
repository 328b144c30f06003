"""Which system calls may a sandbox child make? All but those a circuit never needs.

A filter in the kernel answers the others with EPERM, for good. Machines it does not know get none.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from dataclasses import dataclass

_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2

# Classic BPF over ``struct seccomp_data``: number at 0, architecture at 4, lower half of the first
# argument at 16 (linux/seccomp.h).
_LOAD, _EQUAL, _AT_LEAST, _HAS_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24
# SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO with EPERM, with ENOSYS, and with ENOENT.
_ALLOW, _REFUSE, _UNKNOWN, _ABSENT = 0x7FFF0000, 0x00050001, 0x00050026, 0x00050002
#: A socket's domain and type, without its flags, that CUDA asks for its multi-process service with.
_AF_UNIX, _SOCK_SEQPACKET, _SOCK_TYPE = 1, 5, 0xF
_X32 = 0x40000000
_CLONE_THREAD = 0x00010000


@dataclass(frozen=True, kw_only=True)
class _Machine:
    """Numbers of one architecture."""

    #: its AUDIT_ARCH.
    architecture: int
    #: calls that are refused.
    forbidden: tuple[int, ...]
    #: calls whose first argument is a process: only this one, or 0.
    own_process: tuple[int, ...]
    #: makes threads, and processes, which are refused: they could outlive their job.
    clone: int
    #: as above, but its flags lie in memory; ENOSYS makes the C library use the other.
    clone3: int
    socket: int
    connect: int


#: Order of the forbidden: socket socketpair bind listen accept accept4 connect | ptrace
#: process_vm_readv/writev process_madvise kcmp pidfd_send_signal pidfd_getfd tkill rt_sigqueueinfo
#: rt_tgsigqueueinfo | execve execveat (fork vfork) | mount umount2 pivot_root chroot unshare setns
#: open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr | bpf perf_event_open
#: userfaultfd io_uring_setup/enter/register | keyctl add_key request_key | init_module
#: finit_module delete_module kexec_load kexec_file_load open_by_handle_at | (chmod) fchmod fchmodat
#: fchmodat2 (chown lchown) fchown fchownat (utime utimes futimesat) utimensat
#: setxattr/l/f removexattr/l/f | setpriority sched_setparam sched_setscheduler sched_setaffinity
#: sched_setattr ioprio_set | shmget semget msgget mq_open. In brackets: x86 only.
_MACHINES = {
    "x86_64": _Machine(
        architecture=0xC000003E,
        forbidden=(
            *(41, 53, 49, 50, 43, 288, 42),
            *(101, 310, 311, 440, 312, 424, 438, 200, 129, 297),
            *(59, 322, 57, 58),
            *(165, 166, 155, 161, 272, 308, 428, 429, 430, 431, 432, 433, 442),
            *(321, 298, 323, 425, 426, 427),
            *(250, 248, 249),
            *(175, 313, 176, 246, 320, 304),
            *(90, 91, 268, 452, 92, 94, 93, 260, 132, 235, 261, 280),
            *(188, 189, 190, 197, 198, 199),
            *(141, 142, 144, 203, 314, 251),
            *(29, 64, 68, 240),
        ),
        own_process=(62, 234, 302),
        clone=56,
        clone3=435,
        socket=41,
        connect=42,
    ),
    "aarch64": _Machine(
        architecture=0xC00000B7,
        forbidden=(
            *(198, 199, 200, 201, 202, 242, 203),
            *(117, 270, 271, 440, 272, 424, 438, 130, 138, 240),
            *(221, 281),
            *(40, 39, 41, 51, 97, 268, 428, 429, 430, 431, 432, 433, 442),
            *(280, 241, 282, 425, 426, 427),
            *(219, 217, 218),
            *(105, 273, 106, 104, 294, 265),
            *(52, 53, 452, 55, 54, 88),
            *(5, 6, 7, 14, 15, 16),
            *(140, 118, 119, 122, 274, 30),
            *(194, 190, 186, 180),
        ),
        own_process=(129, 131, 261),
        clone=220,
        clone3=435,
        socket=198,
        connect=203,
    ),
}


def filter_system_calls(*, gpu: bool = False) -> bool:
    """Refuse them to this process from now on; whether this machine is known.

    ``no_new_privs`` must be set before.

    Args:
        gpu: whether CUDA must start. It looks for its multi-process service, by a socket that it
            makes and connects, and goes on without one where nothing is there: it is told so.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return False
    program = _program(machine, pid=os.getpid(), gpu=gpu)
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    pointer = ctypes.create_string_buffer(header, len(header))
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, pointer, 0, 0) == 0)


def _program(machine: _Machine, *, pid: int, gpu: bool) -> list[tuple[int, int, int, int]]:
    """Instructions: code, jump if true, jump if false, operand; jumps skip so many."""
    # Written from the end: what lies behind an instruction says how far it has to jump.
    refuse, allow, unknown = (
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _UNKNOWN),
    )
    program = [allow, refuse, unknown]

    def distance(to: int) -> int:
        """From the instruction that comes next to one of the three returns."""
        return len(program) - 3 + to

    for number in machine.forbidden:
        program.insert(0, (_EQUAL, distance(1), 0, number))
    for number in machine.own_process:
        program = [
            (_EQUAL, 0, 5, number),
            (_LOAD, 0, 0, _FIRST_ARGUMENT),
            (_EQUAL, 1, 0, pid),
            (_EQUAL, 0, 1, 0),
            allow,
            refuse,
            *program,
        ]
    program = [
        (_EQUAL, 0, 4, machine.clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_HAS_BIT, 0, 1, _CLONE_THREAD),
        allow,
        refuse,
        *program,
    ]
    if gpu:
        program = [
            (_EQUAL, 0, 1, machine.connect),
            (_RETURN, 0, 0, _ABSENT),
            (_EQUAL, 0, 7, machine.socket),
            (_LOAD, 0, 0, _FIRST_ARGUMENT),
            (_EQUAL, 0, 4, _AF_UNIX),
            (_LOAD, 0, 0, _SECOND_ARGUMENT),
            (_AND, 0, 0, _SOCK_TYPE),
            (_EQUAL, 0, 1, _SOCK_SEQPACKET),
            allow,
            refuse,
            *program,
        ]
    program.insert(0, (_EQUAL, distance(2), 0, machine.clone3))
    program.insert(0, (_AT_LEAST, distance(1), 0, _X32))
    return [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, machine.architecture),
        refuse,
        (_LOAD, 0, 0, _NUMBER),
        *program,
    ]
