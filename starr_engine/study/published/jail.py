"""Puts a process behind fences, then starts ``jailed.py`` in it; run as a script, never imported.

Arguments: address space in bytes, CPU seconds, bytes per file, and ``namespaces`` or ``limits``.

The process loses the right to start others, to leave its process group and to signal or trace
anyone, so that the parent's one kill of the group always ends it. With ``namespaces`` it has also
no network, no sockets of this machine, no view of other processes, no devices, and only its own
small folder to write to. Where one fence cannot be put up, this script says which and leaves with
status ``NO_FENCE``; nothing has run.
"""

import ctypes
import os
import platform
import resource
import struct
import sys
from pathlib import Path
from typing import NoReturn

NO_FENCE = 3

_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWUSER = 0x00020000, 0x08000000, 0x10000000
_CLONE_NEWPID, _CLONE_NEWNET = 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 2, 4, 1 << 14, 1 << 18
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_READ_ONLY_NO_DEVICES = 1 | 4  # who is root may open a disk by its device, read-only mount or not
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_INSIDE_ID = 65534  # not 0: the capabilities of the new namespace end with the next exec
_FOLDER_OPTIONS = b"size=16m,nr_inodes=1024,mode=700"

# Audit architecture, then the numbers of the system calls that are refused. From 424 on all
# architectures share one numbering.
_REFUSED = {
    "x86_64": (
        0xC000003E,
        # clone fork vfork kill ptrace setpgid setsid rt_sigqueueinfo tkill tgkill rt_tgsigqueueinfo
        (56, 57, 58, 62, 101, 109, 112, 129, 200, 234, 297),
    ),
    "aarch64": (
        0xC00000B7,
        # ptrace kill tkill tgkill rt_sigqueueinfo setpgid setsid clone rt_tgsigqueueinfo
        (117, 129, 130, 131, 138, 154, 157, 220, 240),
    ),
}
_REFUSED_EVERYWHERE = (424, 425)  # pidfd_send_signal, io_uring_setup
_SOCKET = {"x86_64": 41, "aarch64": 198}
_CLONE3 = 435  # answered as if unknown, so that the C library falls back on clone
_EPERM, _ENOSYS = 1, 38
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000

_libc = ctypes.CDLL(None, use_errno=True)


def _give_up(what: str) -> NoReturn:
    print(what, flush=True)
    os._exit(NO_FENCE)


def _checked(what: str, result: int) -> None:
    if result != 0:
        _give_up(f"{what}: {os.strerror(ctypes.get_errno())}")


def _enter_namespaces() -> None:
    """New user, network, mount, process and IPC namespaces; the disk turns read-only."""
    uid, gid = os.getuid(), os.getgid()
    spaces = _CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWIPC
    _checked("the kernel gives no user namespace", _libc.unshare(spaces))
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{_INSIDE_ID} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{_INSIDE_ID} {gid} 1")
    except OSError as error:
        _give_up(f"the kernel maps no user into a namespace: {error}")
    folder = os.getcwd().encode()
    private = _libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    _checked("mounts cannot be made private", private)
    attributes = struct.pack("QQQQ", _READ_ONLY_NO_DEVICES, 0, 0, 0)
    read_only = _libc.syscall(
        _SYS_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, attributes, len(attributes)
    )
    _checked("the disk cannot be made read-only", read_only)
    mounted = _libc.mount(b"tmpfs", folder, b"tmpfs", _MS_NOSUID | _MS_NODEV, _FOLDER_OPTIONS)
    _checked("the program's folder cannot be mounted", mounted)
    os.chdir(folder)  # the folder that was mounted, not the one beneath


def _limit(memory: int, cpu_s: int, file_bytes: int) -> None:
    for kind, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NPROC, 0),  # binds users that are not root; the filter binds all
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def _refuse_system_calls(allow_sockets: bool) -> None:
    """Install a seccomp filter; see seccomp(2). It outlives exec and cannot be taken off."""
    machine = platform.machine()
    if machine not in _REFUSED:
        _give_up(f"no list of system calls for a {machine} processor")
    architecture, refused = _REFUSED[machine]
    if not allow_sockets:  # those of daemons lie in folders, out of the namespace's reach
        refused = (*refused, _SOCKET[machine])
    program = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the number
        (_JUMP_AT_LEAST, 0, 1, 0x40000000),  # the x32 numbers, which would go round the list
        (_RETURN, 0, 0, _ERRNO | _EPERM),
        (_JUMP_EQUAL, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
    ]
    for number in (*refused, *_REFUSED_EVERYWHERE):
        program += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    program.append((_RETURN, 0, 0, _ALLOW))
    code = b"".join(struct.pack("HBBI", *each) for each in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    _checked("no_new_privs", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked("seccomp", _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0))


def main() -> None:
    """Put up the fences and hand over."""
    memory, cpu_s, file_bytes = map(int, sys.argv[1:4])
    has_namespaces = sys.argv[4] == "namespaces"
    if has_namespaces:
        _enter_namespaces()
        child = os.fork()  # the first process of the new process namespace
        if child:
            _, status = os.waitpid(child, 0)
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    _limit(memory, cpu_s, file_bytes)
    _refuse_system_calls(allow_sockets=not has_namespaces)
    jailed = Path(__file__).with_name("jailed.py")
    os.execv(sys.executable, [sys.executable, "-I", "-S", str(jailed)])


if __name__ == "__main__":
    main()
