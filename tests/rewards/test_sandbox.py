"""The sandbox: what programs may do, and attacks that succeed without isolation and fail with it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rewards.sandbox.isolation import (
    ANY,
    STRONG,
    Level,
    SandboxError,
    choose_isolation,
    execute,
    isolation,
    open_holes,
)
from rewards.sandbox.sandbox import Call, Limits, Run, Sandbox

LIMITS = Limits(cpu_seconds=2, wall_seconds=3.0, memory_mib=512, output_kib=64, threads=16)


def boxed(*levels: Level, **limits: float) -> Sandbox:
    try:
        return Sandbox(levels=levels, limits=Limits(**{**vars(LIMITS), **limits}))
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(params=STRONG, scope="module")
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    return boxed(request.param)


@pytest.fixture(scope="module")
def weak() -> Sandbox:
    return boxed("weak")


def run(sandbox: Sandbox, program: str, given: str | Call = "") -> Run:
    [result] = sandbox.run(program, [given])
    return result


# ---------------------------------------------------------------- what programs may do


PROGRAMS = {
    "print(sum(map(int, input().split())))": ("1 2 3\n", "6\n"),
    "import sys; print(len(sys.stdin.read()), sys.argv)": ("äöü" * 1000, "3000 ['program.py']\n"),
    "import sys; print(sys.stdin.buffer.readline().strip().decode())": ("x\ny\n", "x\n"),
    "import os; print(os.read(0, os.fstat(0).st_size))": ("abc", "b'abc'\n"),
    "import sys; sys.stdout.buffer.write('é'.encode()); sys.exit()": ("", "é"),
    "import sys, atexit; atexit.register(print, 'end'); print('x'); sys.exit(0)": ("", "x\nend\n"),
    "if __name__ == '__main__': print(__name__)": ("", "__main__\n"),
    "import heapq, math, re, random, itertools, decimal, datetime, bisect, json, ctypes, sqlite3": ("", ""),
    "print({'b', 'a', 'c', 'd'} and hash('slow'))": ("", None),
    """
import sys, threading, resource
resource.setrlimit(resource.RLIMIT_STACK, (1 << 26, resource.getrlimit(resource.RLIMIT_STACK)[1]))
sys.setrecursionlimit(10**6)
threading.stack_size(1 << 27)
def depth(n): return n and 1 + depth(n - 1)
threading.Thread(target=lambda: print(depth(50_000))).start()
""": ("", "50000\n"),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_ordinary_programs_run(sandbox: Sandbox, program: str) -> None:
    given, printed = PROGRAMS[program]
    first, second = sandbox.run(program, [given, given])
    assert (first.status, first.stdout) == ("ok", second.stdout if printed is None else printed)


def test_functions_are_called_with_json(sandbox: Sandbox) -> None:
    program = (
        "from typing import NamedTuple\nclass Solution:\n    def f(self, a: List[int], b): return a, {1: b}"
    )
    one, two = sandbox.run(program, [Call("f", [[1], "é"]), Call("f", [[], None])])
    assert (json.loads(one.result), json.loads(two.result)) == ([[1], {"1": "é"}], [[], {"1": None}])
    assert run(sandbox, "def f(): return {1}", Call("f", [])).status == "error"
    assert "AttributeError" in run(sandbox, "x = 1", Call("f", [])).stderr


def test_every_input_gets_a_fresh_process(sandbox: Sandbox) -> None:
    program = "import builtins\nprint(hasattr(builtins, 'x'), input())\nbuiltins.x = 1"
    assert [r.stdout for r in sandbox.run(program, ["1", "2"])] == ["False 1\n", "False 2\n"]


def test_stop_early_leaves_out_what_follows_a_failure(sandbox: Sandbox) -> None:
    runs = sandbox.run("print(1 / int(input()))", ["1", "0", "2"], stop_early=True)
    assert [r.status for r in runs] == ["ok", "error"]
    assert "ZeroDivisionError" in runs[1].stderr


def test_packages_can_be_imported_when_asked_for(sandbox: Sandbox) -> None:
    program = "import numpy; print(numpy.arange(3).sum())"
    assert "ModuleNotFoundError" in run(sandbox, program).stderr
    with_packages = Sandbox(levels=sandbox.levels, packages=True)
    assert run(with_packages, program).stdout == "3\n"


def test_many_programs_at_one_time(sandbox: Sandbox) -> None:
    jobs = [(f"print({n} + int(input()))", ["1", "2"]) for n in range(12)]
    runs = Sandbox(levels=sandbox.levels, processes=4).run_many(jobs)
    assert [[r.stdout for r in two or []] for two in runs] == [
        [f"{n + 1}\n", f"{n + 2}\n"] for n in range(12)
    ]


# ---------------------------------------------------------------- limits

LIMITED = {
    "while True: pass": "timeout",
    "import time; time.sleep(1000)": "timeout",
    "import signal, time\nfor s in {*range(1, 32)} - {9, 19}: signal.signal(s, 1)\ntime.sleep(9)": "timeout",
    "x = bytearray(4 << 30)": "memory",
    "x = []\nwhile True: x.append('x' * 10**6 + str(len(x)))": "memory",
    "import sys\nwhile True: sys.stdout.write('x' * 65536)": "killed",
    "import sys\nwhile True: sys.stderr.write('x' * 65536)": "killed",
    "import time, threading as t\nfor _ in range(99): t.Thread(None, time.sleep, 'a', [9]).start()": "killed",
    "import os; os.kill(os.getpid(), 9)": "killed",
    "import os; os._exit(3)": "error",
    "import ctypes; ctypes.string_at(0)": "error",
    "def f(): f()\nf()": "error",
    "(" * 10**4: "error",
    "print('\\ud800')": "error",
    "x = '\udcff\0'": "error",
    "exit(7)": "error",
}


@pytest.mark.parametrize("program", LIMITED, ids=lambda program: program[:40])
def test_limits(program: str) -> None:
    sandbox = boxed("landlock", cpu_seconds=1, wall_seconds=1.2)
    result = run(sandbox, program)
    assert result.status == LIMITED[program], result.stderr
    assert len(result.stdout) <= 65536
    assert result.seconds < 30


def test_time_of_all_inputs_is_bounded() -> None:
    sandbox = boxed("landlock", program_seconds=0.5, wall_seconds=0.3)
    runs = sandbox.run("import time; time.sleep(9)", [""] * 50)
    assert [r.status for r in runs] == ["timeout"] * 50


def test_limits_must_make_sense() -> None:
    with pytest.raises(ValueError, match="cpu_seconds"):
        Limits(cpu_seconds=0)
    with pytest.raises(ValueError, match="memory_mib"):
        Limits(memory_mib=8)


# ---------------------------------------------------------------- trust

FORGERIES = [
    "import os\nfor f in range(64):\n    try: os.write(f, b'ok 0.0 2 0 0\\n42')\n    except OSError: pass",
    "print('ok 0.000001 2 0 0\\n42' * 100); import os; os.closerange(0, 64)",
    "import sys; r = sys.modules['runner']; r.report('ok', 0.0, b'42'); r.wait = r.report = r.main = None",
    "import os; os._exit = lambda code: None; os.fork = lambda: 0; print('42')",
    "import sys, json, os; sys.modules.clear(); json.dumps = os.write = None; raise SystemExit('42')",
    "import sys; sys.stdout = sys.stderr = sys.stdin = None; sys.excepthook = print; raise KeyboardInterrupt",
    "import sys; sys.__stdout__.close(); sys.stdout.close(); exit(-1)",
    "import threading, os; threading._shutdown = lambda: os._exit(0)\nraise ValueError",
    "import atexit; atexit.register(lambda: 1 / 0); raise MemoryError",
    "import ctypes; ctypes.memset(id(None), 255, 64)",
    "import os\nfor f in (1, 2): os.write(f, bytes(range(256)) * 99)",
]


@pytest.mark.parametrize("program", FORGERIES, ids=range(len(FORGERIES)))
def test_a_program_touches_its_own_result_only(sandbox: Sandbox, program: str) -> None:
    first = "n = input()\nif n == '1':\n    " + program.replace("\n", "\n    ") + "\nelse: print(n)"
    runs = sandbox.run(first, ["0", "1", "2"])
    assert len(runs) == 3
    assert [(r.status, r.stdout) for r in (runs[0], runs[2])] == [("ok", "0\n"), ("ok", "2\n")]


def test_nothing_is_left_running(sandbox: Sandbox) -> None:
    before = _children()
    program = "import os, time\ntry: os.fork()\nexcept OSError: pass\nprint(1, flush=True)\ntime.sleep(99)"
    runs = boxed(*sandbox.levels, wall_seconds=0.3).run(program, [""] * 2)
    assert [(r.status, r.stdout.count("\n")) for r in runs] == [("timeout", 1)] * 2
    assert _children() == before


def _children() -> list[str]:
    """Processes whose command line starts a runner."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"from runner import main" in (process / "cmdline").read_bytes():
                found.append(process.name)
    return found


def test_the_sandbox_ends_with_its_caller(sandbox: Sandbox) -> None:
    script = (
        "from rewards.sandbox.sandbox import *; import sys\n"
        f"Sandbox(levels={sandbox.levels!r}).run('import time; time.sleep(99)', [''])"
    )
    before = len(_children())
    caller = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 20
    while len(_children()) < before + 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    assert len(_children()) > before
    caller.kill()
    caller.wait()
    while len(_children()) > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(_children()) == before


# ---------------------------------------------------------------- choosing the isolation


def test_weak_isolation_is_found_out_and_must_be_accepted(caplog: pytest.LogCaptureFixture) -> None:
    assert open_holes(isolation("weak")) == ["read", "write", "network", "fork"]
    with pytest.raises(SandboxError, match="accept_weak_isolation"):
        choose_isolation(levels=())
    choose_isolation.cache_clear()
    assert Sandbox(levels=("weak",)).isolation.level == "weak"
    assert "able to read your files" in caplog.text
    assert Sandbox(levels=ANY).isolation.level in ANY


def test_a_sandbox_that_cannot_start_says_so() -> None:
    sandbox = boxed("landlock")
    gone = dataclasses.replace(sandbox.isolation, command=("/nowhere/python",))
    with pytest.raises(SandboxError, match="/nowhere/python does not start"):
        execute(gone, "", [""], vars(LIMITS))
    unconfined = dataclasses.replace(sandbox.isolation, readable=("a\0b",))
    with pytest.raises(SandboxError, match=r"null (byte|character)"):
        execute(unconfined, "print(1)", [""], vars(LIMITS))


def test_packages_that_a_program_names_cost_it_no_memory() -> None:
    sandbox = Sandbox(levels=boxed("landlock").levels, packages=True, limits=Limits(memory_mib=16))
    assert run(sandbox, "# numpy and sympy\nprint(1)").stdout == "1\n"
