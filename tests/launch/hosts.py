"""Two hosts on one machine: network namespaces with a link, addresses and names of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

NETWORK = "10.77.0"
_ENTER = 'hostname "$0" && mount --bind "$1" /etc/hosts && shift && exec "$@"'


@dataclass(frozen=True)
class Host:
    """One of the two; what is started on it sees its name, its interface and both addresses."""

    name: str
    namespace: str
    interface: str
    names: Path

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], output: IO[str]
    ) -> subprocess.Popen:
        """A process on this host, in a session of its own."""
        enter = ["nsenter", f"--net=/run/netns/{self.namespace}", "unshare", "--uts", "--mount"]
        return subprocess.Popen(
            [*enter, "bash", "-c", _ENTER, self.name, str(self.names), *command],
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def pull_the_plug(self) -> None:
        """Nothing goes through any more, and nobody is told."""
        _ip("-n", self.namespace, "link", "set", self.interface, "down")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _why_not() -> str | None:
    missing = [tool for tool in ("ip", "nsenter", "unshare") if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    return None if os.geteuid() == 0 else "needs root, for network namespaces"


@pytest.fixture
def two_hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    """hosta (10.77.0.1) and hostb (10.77.0.2)."""
    if why := _why_not():
        pytest.skip(why)
    names = tmp_path / "hosts"
    lines = ["127.0.0.1 localhost", *(f"{NETWORK}.{i} host{letter}" for i, letter in ((1, "a"), (2, "b")))]
    names.write_text("\n".join(lines) + "\n")
    hosts = tuple(Host(f"host{at}", f"st{os.getpid()}{at}", f"ve{at}", names) for at in "ab")
    try:
        for host in hosts:
            _ip("netns", "add", host.namespace)
            _ip("-n", host.namespace, "link", "set", "lo", "up")
        here, there = hosts
        ends = (here.interface, "netns", here.namespace, there.interface, "netns", there.namespace)
        _ip("link", "add", *ends[:3], "type", "veth", "peer", "name", *ends[3:])
        for number, host in enumerate(hosts, start=1):
            _ip("-n", host.namespace, "addr", "add", f"{NETWORK}.{number}/24", "dev", host.interface)
            _ip("-n", host.namespace, "link", "set", host.interface, "up")
        yield here, there
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "del", host.namespace], check=False, capture_output=True)
