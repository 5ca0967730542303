"""The system call filter, for both machines, interpreted and against the kernel's own numbers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rewards.sandbox import confine


def decide(
    machine: str, number: int, arguments: tuple[int, ...] = (), *, architecture: int | None = None
) -> str:
    """What the filter of that machine says of a system call: the classic BPF of seccomp, interpreted."""
    names = {0x7FFF0000: "allow", 0x80000000: "kill", 0x00050001: "EPERM", 0x00050026: "ENOSYS"}
    data = {0: number, 4: architecture or {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]}
    data |= {16 + 8 * i: value for i, value in enumerate((*arguments, *[0] * (6 - len(arguments))))}
    program, position, loaded = confine.syscall_filter(machine, pid=77, truncating=False), 0, 0
    while True:
        code, yes, no, value = program[position]
        if code == 0x06:
            return names[value]
        if code == 0x20:
            loaded, step = data[value], 0
        else:
            step = yes if (loaded == value if code == 0x15 else loaded & value) else no
        position += 1 + step


CALLS = [  # name, x86-64, aarch64, arguments, decision
    ("read", 0, 63, (), "allow"),
    ("exit_group", 231, 94, (), "allow"),
    ("execve", 59, 221, (), "EPERM"),
    ("socket", 41, 198, (), "EPERM"),
    ("ptrace", 101, 117, (), "EPERM"),
    ("unlinkat", 263, 35, (), "EPERM"),
    ("clone as fork", 56, 220, (17,), "EPERM"),
    ("clone as thread", 56, 220, (0x3D0F00,), "allow"),
    ("clone as thread in a namespace", 56, 220, (0x3D0F00 | 0x10000000,), "EPERM"),
    ("clone3", 435, 435, (), "ENOSYS"),
    ("kill itself", 62, 129, (77, 9), "allow"),
    ("kill its group", 62, 129, (0, 9), "EPERM"),
    ("kill all", 62, 129, (0xFFFFFFFF, 9), "EPERM"),
    ("tgkill another", 234, 131, (76, 76, 9), "EPERM"),
    ("fcntl F_SETFL", 72, 25, (5, 4), "allow"),
    ("fcntl F_SETOWN", 72, 25, (5, 8), "EPERM"),
    ("prctl PR_SET_NAME", 157, 167, (15,), "allow"),
    ("prctl PR_SET_PDEATHSIG", 157, 167, (1,), "EPERM"),
    ("openat", 257, 56, (0, 0, 0), "allow"),
    ("openat O_TRUNC", 257, 56, (0, 0, os.O_TRUNC), "EPERM"),
    ("prlimit64 of another", 302, 261, (76,), "EPERM"),
    ("x32", 0x40000000, 0x40000000, (), "EPERM"),
    ("from the future", 999, 999, (), "EPERM"),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0])
def test_the_filter_on_both_machines(call: tuple[str, int, int, tuple[int, ...], str]) -> None:
    _, x86_64, aarch64, arguments, decision = call
    assert decide("x86_64", x86_64, arguments) == decision
    assert decide("aarch64", aarch64, arguments) == decision


def test_the_filter_knows_its_machine() -> None:
    assert decide("x86_64", 0, architecture=0x40000003) == "kill"  # 32-bit calls have other numbers
    with pytest.raises(OSError, match="riscv64"):
        confine.syscall_filter("riscv64", pid=1, truncating=True)


@pytest.mark.parametrize(
    ("column", "header"), enumerate(("x86_64-linux-gnu/asm/unistd_64.h", "asm-generic/unistd.h"))
)
def test_numbers_are_those_of_the_kernel_headers(column: int, header: str) -> None:
    path = Path("/usr/include", header)
    if not path.exists():
        pytest.skip(f"{path} is absent (linux-libc-dev)")
    defined = re.findall(r"#define __NR(?:3264)?_(\w+)\s+([0-9]+)\b", path.read_text(encoding="utf-8"))
    numbers = {name: int(number) for name, number in defined}
    numbers.setdefault("newfstatat", numbers.get("fstatat", -1))
    for table in (confine._ALLOWED, confine._CONDITIONAL):
        for name, number in confine._numbers(table, column).items():
            assert numbers[name] == number, name


OLD_SYSTEM = """
import ctypes, logging, os, struct
from rewards.sandbox import confine
from rewards.sandbox.isolation import ANY
from rewards.sandbox.sandbox import Sandbox

logging.basicConfig(level=logging.INFO, format="%(message)s")
landlock, clone, unshare, user, bwrap = 444, *{NUMBERS}, 0x10000000, {BWRAP}
load, equal, bits, end = 0x20, 0x15, 0x45, 0x06
steps = [(load, 0, 0, 0), (equal, 0, 1, landlock), (end, 0, 0, 0x00050026)]
if not bwrap:
    steps += [(equal, 1, 0, clone), (equal, 0, 3, unshare), (load, 0, 0, 16), (bits, 0, 1, user)]
    steps += [(end, 0, 0, 0x00050001)]
steps += [(end, 0, 0, 0x7FFF0000)]
packed = b"".join(struct.pack("HBBI", *step) for step in steps)
confine.set_process(38, 1)
confine.set_process(22, 2, ctypes.byref(confine._Program(len(steps), packed)))
try:
    print(Sandbox().isolation.level)
except RuntimeError as error:
    print("refused:", error)
print(Sandbox(levels=ANY).run("print(1)", [""])[0].stdout)
"""


@pytest.mark.parametrize("bwrap", [True, False])
def test_a_system_without_landlock_or_namespaces(bwrap: bool) -> None:
    """A kernel before 5.13, and there a container that forbids namespaces, as seccomp filters show them."""
    numbers = (56, 272) if os.uname().machine == "x86_64" else (220, 97)
    script = OLD_SYSTEM.replace("{NUMBERS}", str(numbers)).replace("{BWRAP}", str(bwrap))
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
    )
    level, *_, printed = done.stdout.split()
    assert printed == "1", done.stderr
    if not bwrap or level != "bubblewrap":
        assert level == "refused:"
        assert "accept_weak_isolation" in done.stdout
        assert "landlock_create_ruleset: Function not implemented" in done.stdout
        assert "programs run with limits only" in done.stderr
