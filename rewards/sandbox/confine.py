"""Confinement of the calling process by the kernel alone: rlimits, Landlock, dropped capabilities, seccomp.

Needs Linux 5.13 on x86-64 or aarch64 and neither privileges nor packages; standard library only, since it
runs inside the sandbox. Each step raises OSError where the kernel refuses it, so that nothing runs
unconfined.

Sources: landlock(7), seccomp(2), include/uapi/linux/{landlock,seccomp,filter}.h. System call numbers:
arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux 6.1.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct

TYPE_CHECKING = False  # typing and dataclasses take longer to import than everything else to run
if TYPE_CHECKING:
    from collections.abc import Iterable

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def confine(
    *, level: str, readable: Iterable[str], cpu_seconds: int, memory_bytes: int, file_bytes: int
) -> None:
    """Confine this process, which must have one thread, for good.

    level: landlock (everything here), bubblewrap (the same, but a kernel without Landlock is accepted, as the
    namespaces already hide the files) or weak (rlimits only). readable: files and folders that may still be
    read; nothing may be written. memory_bytes counts address space, file_bytes the size of any one open file.
    """
    limits = {
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for name, value in limits.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))
    if level == "weak":
        return
    abi = landlock_abi()
    set_process(_PR_SET_NO_NEW_PRIVS, 1)
    if level == "landlock" or abi > 0:
        restrict_files(readable, abi)
    drop_capabilities()
    filter_syscalls(truncating=level == "bubblewrap" or abi >= 3)


_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38


def set_process(option: int, value: int, argument: object = 0) -> None:
    """prctl(2)."""
    _check(libc.prctl(option, ctypes.c_ulong(value), argument, ctypes.c_ulong(0), ctypes.c_ulong(0)), "prctl")


def guard_supervisor() -> None:
    """Die with the parent, and let no process of the same user read or write this one's memory."""
    set_process(_PR_SET_PDEATHSIG, 9)
    set_process(_PR_SET_DUMPABLE, 0)


def _check(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


# ---------------------------------------------------------------- files

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""Number of file rights that each version of Landlock can handle; 16 since version 5."""


def landlock_abi() -> int:
    """Version of Landlock in this kernel; 0 or less where there is none."""
    return libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))


def restrict_files(readable: Iterable[str], abi: int) -> None:
    """No file can be opened but the readable ones, and those for reading only, except for /dev/null.

    Where the kernel can, also no TCP, no abstract unix sockets and no signals to processes outside.
    """
    rights = (1 << _FILE_RIGHTS.get(abi, 16)) - 1
    handled = struct.pack("QQQ", rights, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _check(
        libc.syscall(_CREATE_RULESET, handled, ctypes.c_size_t(size), 0), "landlock_create_ruleset"
    )
    for path in (*readable, "/dev/null"):
        try:
            file = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        allowed = _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0)
        if path == "/dev/null":
            allowed |= (_WRITE_FILE | _TRUNCATE) & rights
        rule = struct.pack("=Qi", allowed, file)
        _check(libc.syscall(_ADD_RULE, ruleset, 1, rule, 0), f"landlock_add_rule {path}")
        os.close(file)
    _check(libc.syscall(_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def drop_capabilities() -> None:
    """Give up every capability, so that root is an ordinary user here."""
    header = struct.pack("Ii", 0x20080522, 0)
    _check(libc.capset(header, bytes(24)), "capset")


# ---------------------------------------------------------------- system calls

_ALLOWED = """
read:0/63 write:1/64 readv:19/65 writev:20/66 pread64:17/67 pwrite64:18/68 preadv:295/69 pwritev:296/70
close:3/57 close_range:436/436 lseek:8/62 fstat:5/80 newfstatat:262/79 stat:4/- lstat:6/- statx:332/291
getdents64:217/61 access:21/- faccessat:269/48 faccessat2:439/439 readlink:89/- readlinkat:267/78 getcwd:79/17
chdir:80/49 fchdir:81/50 umask:95/166 ftruncate:77/46 fsync:74/82 fdatasync:75/83 dup:32/23 dup2:33/-
dup3:292/24 pipe:22/- pipe2:293/59 select:23/- pselect6:270/72 poll:7/- ppoll:271/73 eventfd2:290/19
epoll_create1:291/20 epoll_ctl:233/21 epoll_wait:232/- epoll_pwait:281/22 mmap:9/222 mprotect:10/226
munmap:11/215 mremap:25/216 madvise:28/233 brk:12/214 futex:202/98 set_robust_list:273/99
get_robust_list:274/100 rseq:334/293 set_tid_address:218/96 arch_prctl:158/- membarrier:324/283 getcpu:309/168
sched_yield:24/124 sched_getaffinity:204/123 rt_sigaction:13/134 rt_sigprocmask:14/135 rt_sigreturn:15/139
rt_sigpending:127/136 rt_sigtimedwait:128/137 rt_sigsuspend:130/133 sigaltstack:131/132
restart_syscall:219/128 alarm:37/- pause:34/- setitimer:38/103 getitimer:36/102 nanosleep:35/101
clock_nanosleep:230/115 clock_gettime:228/113 clock_getres:229/114 gettimeofday:96/169 time:201/-
times:100/153 getpid:39/172 getppid:110/173 gettid:186/178 getuid:102/174 geteuid:107/175 getgid:104/176
getegid:108/177 getgroups:115/158 getpgrp:111/- uname:63/160 getrusage:98/165 sysinfo:99/179 getrlimit:97/163
setrlimit:160/164 getrandom:318/278 exit:60/93 exit_group:231/94
"""
"""name:number on x86-64/number on aarch64. What a program with threads needs that only computes and
prints."""
_CONDITIONAL = """
clone:56/220 clone3:435/435 kill:62/129 tgkill:234/131 prlimit64:302/261 fcntl:72/25 prctl:157/167 open:2/-
openat:257/56
"""
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _KILL, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
_THREAD = 0x10000
_NEW_NAMESPACES = 0x7E020000
_FCNTL = (0, 1, 2, 3, 4, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC; not F_SETOWN, which sends signals."""
_PRCTL = (15, 16)
"""PR_SET_NAME, PR_GET_NAME."""


def _numbers(table: str, column: int) -> dict[str, int]:
    pairs = (entry.split(":") for entry in table.split())
    return {name: int(n) for name, both in pairs if (n := both.split("/")[column]) != "-"}


def _argument(index: int) -> tuple[int, int, int, int]:
    """Load the lower half of an argument; the kernel reads no more of those that are checked here."""
    return (_LOAD, 0, 0, 16 + 8 * index)


def _one_of(argument: int, values: Iterable[int]) -> list[tuple[int, int, int, int]]:
    checks = [step for value in values for step in ((_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW))]
    return [_argument(argument), *checks, (_RETURN, 0, 0, _EPERM)]


def _without_bits(argument: int, bits: int) -> list[tuple[int, int, int, int]]:
    return [_argument(argument), (_ANY_BIT, 0, 1, bits), (_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)]


def syscall_filter(machine: str, pid: int, *, truncating: bool) -> list[tuple[int, int, int, int]]:
    """The BPF program: what is not listed above fails with EPERM, another architecture's calls kill.

    Threads may be made but no processes, and signals go to this process (`pid`) only. truncating: whether
    opening with O_TRUNC is left to Landlock, which knows it since version 3.

    Raises:
        OSError: not a machine whose numbers are known.
    """
    if machine not in _ARCHITECTURES:
        raise OSError(f"seccomp: no system call table for {machine}, only for {', '.join(_ARCHITECTURES)}")
    column, architecture = _ARCHITECTURES[machine]
    opening = [(_RETURN, 0, 0, _ALLOW)] if truncating else None
    conditions = {
        "clone": [
            _argument(0),
            (_ANY_BIT, 1, 0, _THREAD),
            (_RETURN, 0, 0, _EPERM),
            *_without_bits(0, _NEW_NAMESPACES),
        ],
        "clone3": [(_RETURN, 0, 0, _ENOSYS)],
        "kill": _one_of(0, [pid]),
        "tgkill": _one_of(0, [pid]),
        "prlimit64": _one_of(0, [0]),
        "fcntl": _one_of(1, _FCNTL),
        "prctl": _one_of(0, _PRCTL),
        "open": opening or _without_bits(1, os.O_TRUNC),
        "openat": opening or _without_bits(2, os.O_TRUNC),
    }
    program = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
    ]
    for number in _numbers(_ALLOWED, column).values():
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for name, number in _numbers(_CONDITIONAL, column).items():
        program += [(_EQUAL, 0, len(conditions[name]), number), *conditions[name]]
    return [*program, (_RETURN, 0, 0, _EPERM)]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def filter_syscalls(*, truncating: bool) -> None:
    """Install `syscall_filter` for this process; every later thread inherits it."""
    steps = syscall_filter(os.uname().machine, os.getpid(), truncating=truncating)
    packed = b"".join(struct.pack("HBBI", *step) for step in steps)
    program = _Program(len(steps), packed)
    set_process(_PR_SET_SECCOMP, 2, ctypes.byref(program))
