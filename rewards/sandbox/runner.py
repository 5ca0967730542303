"""The trusted half inside the sandbox: reads a request, forks a confined child per case, reports on each.

Runs as `python -S -s -P -c "from runner import main; main()"` on the standard library, of which it imports
the least: starting is most of what a run costs. The request is one object on stdin, in marshal (program,
cases, limits, stop_early, level, readable, packages). The answer on stdout are reports: a line with outcome,
seconds and the lengths of stdout, result and stderr, and then these three. The first has outcome "ready", the
others are one per case. A child holds neither file, so what a program writes, closes or changes touches its
own case only.
"""

from __future__ import annotations
import __future__

import gc
import marshal
import os
import select
import sys
import time

from confine import confine, guard_supervisor, libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource
    from types import ModuleType
    from typing import Any, NoReturn

CONFINED = b"confined"
TAIL_BYTES = 2_000
TICK_SECONDS = 0.05
STDIN, STDOUT, STDERR, RESULT, STATE = range(5)
"""The files of a child. They are in memory, so that nobody has to read or write while it runs. STATE says
`CONFINED` once the confinement holds, and is closed before the program starts."""


def main() -> None:
    """Serve the request on stdin."""
    guard_supervisor()
    with open(0, "rb", closefd=False) as stdin:
        request = marshal.load(stdin)
    here = os.path.dirname(__file__)
    sys.path[:] = [path for path in sys.path if path != here] + list(request["packages"])
    preload(request)
    os.chdir("/")
    with open("/proc/self/statm") as file:
        request["own_bytes"] = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    gc.freeze()
    report("ready")
    deadline = time.monotonic() + request["limits"]["program_seconds"]
    for case in request["cases"]:
        files = open_files(case)
        pid = os.fork()
        if pid == 0:
            become(files, request)
            run(request["program"], case)
        outcome = wait(pid, files, request["limits"], deadline)
        if outcome == "failure" or (request["stop_early"] and outcome != "ok"):
            return


def preload(request: dict[str, Any]) -> None:
    """Import, once for all cases, the trusted modules that the program will need."""
    names = ("numpy", "sympy") if request["packages"] else ()
    wanted = [name for name in names if name in request["program"]]
    for name in [*wanted, *(["json"] if any(isinstance(case, dict) for case in request["cases"]) else [])]:
        try:
            __import__(name)
        except ImportError:
            continue


def report(
    outcome: str, seconds: float = 0.0, stdout: bytes = b"", result: bytes = b"", stderr: bytes = b""
) -> None:
    """Send one report to the host."""
    header = f"{outcome} {seconds:.6f} {len(stdout)} {len(result)} {len(stderr)}\n"
    write_all(1, b"".join((header.encode(), stdout, result, stderr)))


def write_all(file: int, content: bytes, write: Any = os.write) -> None:
    """Write the whole content."""
    while content:
        content = content[write(file, content) :]


def open_files(case: str | dict[str, Any]) -> list[int]:
    """Files for one case; its stdin is sealed, since growth of a file in memory is not counted as memory."""
    files = [libc.memfd_create(b"file", 2) for _ in range(5)]
    if min(files) < 0:
        raise OSError("memfd_create failed")
    if isinstance(case, str):
        write_all(files[STDIN], case.encode("utf-8", "replace"))
    os.lseek(files[STDIN], 0, os.SEEK_SET)
    if libc.fcntl(files[STDIN], 1033, 1 | 2 | 4 | 8):  # F_ADD_SEALS: seal, shrink, grow, write
        raise OSError("F_ADD_SEALS failed")
    return files


# ---------------------------------------------------------------- in the runner


def wait(pid: int, files: list[int], limits: dict[str, Any], deadline: float) -> str:
    """Wait for a child, end it when it exceeds a limit, report what became of it; gives back the outcome."""
    start = time.monotonic()
    deadline = min(deadline, start + limits["wall_seconds"])
    handle, cause = libc.syscall(434, pid, 0), ""  # pidfd_open
    if handle < 0:
        raise OSError("pidfd_open failed")
    while not select.select([handle], [], [], max(0.0, min(TICK_SECONDS, deadline - time.monotonic())))[0]:
        cause = "timeout" if time.monotonic() >= deadline else too_many_threads(pid, limits["threads"])
        if cause:
            os.kill(pid, 9)
            break
    _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - start
    cap = limits["output_kib"] << 10
    stdout, stderr, result = (os.pread(files[name], cap, 0) for name in (STDOUT, STDERR, RESULT))
    confined = os.pread(files[STATE], len(CONFINED), 0) == CONFINED
    for file in (*files, handle):
        os.close(file)
    if not cause and max(map(len, (stdout, stderr, result))) >= cap:
        cause = f"killed: more than {limits['output_kib']} KiB of output"
    outcome, _, reason = (cause or outcome_of(status, usage, limits, stderr)).partition(": ")
    if not confined and cause != "timeout":
        outcome, reason = "failure", f"before it was confined, {reason}"
    tail = stderr[-TAIL_BYTES:]
    report(outcome, seconds, stdout, result, tail + f"\n{reason}".encode() if reason else tail)
    return outcome


def too_many_threads(pid: int, most: int) -> str:
    """Why the child must go: threads are counted here, as RLIMIT_NPROC counts all of a user's and none of
    root's."""
    try:
        threads = len(os.listdir(f"/proc/{pid}/task"))
    except FileNotFoundError:
        return ""
    return f"killed: {threads} threads, more than {most}" if threads > most else ""


def outcome_of(status: int, usage: resource.struct_rusage, limits: dict[str, Any], stderr: bytes) -> str:
    """Outcome of a child that ended by itself or by an rlimit, with the reason behind a colon."""
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return "ok"
    if code == -9:
        spent = usage.ru_utime + usage.ru_stime >= 0.9 * limits["cpu_seconds"]
        return "timeout" if spent else "killed: ended by signal 9"
    if code > 0 and b"MemoryError" in stderr.rstrip().rpartition(b"\n")[2]:
        return "memory"
    return f"error: ended by signal {-code}" if code < 0 else f"error: exit code {code}"


# ---------------------------------------------------------------- in a child


def become(files: list[int], request: dict[str, Any]) -> None:
    """Turn this child into the confined place where the program will run."""
    for target, source in enumerate(files):
        os.dup2(source, 100 + target)
    for target in range(len(files)):
        os.dup2(100 + target, target)
    os.closerange(len(files), 1024)
    guard_supervisor()
    for file, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        errors = "backslashreplace" if file == STDERR else "strict"
        stream = open(file, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    limits = request["limits"]
    confine(
        level=request["level"],
        readable=request["readable"],
        cpu_seconds=limits["cpu_seconds"],
        memory_bytes=request["own_bytes"] + (limits["memory_mib"] << 20),
        file_bytes=limits["output_kib"] << 10,
    )
    os.write(STATE, CONFINED)
    os.close(STATE)


def run(program: str, case: str | dict[str, Any]) -> NoReturn:
    """Run the case to its end, as the interpreter would, but without taking the interpreter apart (10 ms)."""
    code = 0
    sys.argv = ["program.py"]
    try:
        try:
            run_script(program) if isinstance(case, str) else call_function(program, case)
        finally:
            if "threading" in sys.modules:
                sys.modules["threading"]._shutdown()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    __import__("atexit")._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


def run_script(program: str) -> None:
    """Execute the program as a script that reads its input from stdin."""
    os.close(RESULT)
    exec(compile(program, "program.py", "exec", dont_inherit=True), vars(new_module("__main__")))


def call_function(program: str, case: dict[str, Any]) -> None:
    """Call a function of the program, or that method of its class Solution, and leave the result as JSON."""
    import json

    dump, write = json.dumps, os.write
    module = new_module("program")
    # As text, annotations such as List[int] need no import.
    flags = __future__.annotations.compiler_flag
    arguments = json.loads(case["arguments"])
    exec(compile(program, "program.py", "exec", flags=flags, dont_inherit=True), vars(module))
    name = case["function"]
    owner = module.Solution() if hasattr(getattr(module, "Solution", None), name) else module
    write_all(RESULT, dump(getattr(owner, name)(*arguments)).encode(), write)


def new_module(name: str) -> ModuleType:
    """An empty module of that name, where the program's names will live."""
    sys.modules[name] = type(sys)(name)
    return sys.modules[name]
