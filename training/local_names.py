"""What says where a run was made: local paths, machines, users and secrets. None of it leaves the machine."""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from data.recipe import map_values

REMOVED = "<removed>"
_SECRET_KEYS = re.compile(
    r"(^token|(hub|hf|api|auth|access)_token|authorization|api_key|password|secret|main_process_ip)$", re.I
)
_SECRET = re.compile(r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[\w-]{16,})")
"""Keys of the hub and of OpenAI, wherever they stand."""
_PART = r"""[^\s"'`,;:()\[\]{}<>|]*"""
_PATH = re.compile(rf"(?:file://|(?<![\w.</\\-]))(?:~|/(?!/)|(?:\.\./)+){_PART}/{_PART}")
_WHOLE = re.compile(r"(?:~/|/(?!/)|\.\./)[^\n]*/[^\n]*")
"""A value that is a path as a whole, also with spaces in it."""
_HOME = re.compile(r"(?:~|/(?:root|home|tmp|mnt|data|scratch))(?![\w/.-])")
_WINDOWS = re.compile(r"""\b[A-Za-z]:\\[^\s"'`,;()<>|]*""")
_URL = re.compile(r"""\b(https?|wss?|tcp)://(?:[^\s/@"']+@)?([^\s/:"']+)(:\d+)?""")
_ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b")
_PUBLIC_HOST = re.compile(r"(?:[\w-]+\.)+(?:co|com|org|net|io|ai|dev|edu)$", re.I)
_ORDINARY = frozenset({"root", "user", "localhost", "ubuntu", "test", "admin", "runner", "vm", "host"})
"""Names of users and machines that say nothing about either, and are words of other meaning."""


@dataclass(frozen=True)
class LocalNames:
    """Names of machines and users, and the folders of stages."""

    names: frozenset[str]
    folders: Mapping[str, str]
    """Path of a stage folder -> what stands for it (run:05_sft)."""

    def hide(self, value: Any) -> Any:
        """`value` (strings, lists, mappings) without secrets, paths, addresses and names.

        Of a path the last part stays, which says what the file is.
        """
        if isinstance(value, dict):
            return {
                self.hide_text(str(key)): REMOVED
                if item and _SECRET_KEYS.search(str(key))
                else self.hide(item)
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self.hide(item) for item in value]
        return map_values(value, self.hide_text)

    def hide_text(self, text: str) -> str:
        """One string of them."""
        for folder in sorted(self.folders, key=len, reverse=True):
            text = re.sub(rf"{re.escape(folder)}(?![\w.-])", self.folders[folder].replace("\\", ""), text)
        text = _SECRET.sub(REMOVED, text)
        text = _URL.sub(_public_url, text)
        text = (
            _last_part(text)
            if _WHOLE.fullmatch(text)
            else _PATH.sub(lambda found: _last_part(found[0]), text)
        )
        text = _WINDOWS.sub(lambda found: found[0].rsplit("\\", 1)[-1] or "<path>", text)
        text = _HOME.sub("<path>", text)
        text = _ADDRESS.sub("<address>", text)
        for name in self.names:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "<name>", text)
        return text


def _last_part(path: str) -> str:
    """Name of the file; nothing of a short path, which can be somebody's home."""
    parts = [part for part in path.removeprefix("file://").split("/") if part and part not in ("~", "..")]
    return parts[-1] if len(parts) > 2 or (parts and "." in parts[-1]) else "<path>"


def _public_url(found: re.Match[str]) -> str:
    host = found[2]
    return f"{found[1]}://{host if _PUBLIC_HOST.search(host) else '<host>'}"


def local_names(hosts: Iterable[str], folders: Mapping[str, str]) -> LocalNames:
    """Those of this machine and of the machines that a run's manifests name."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        user = ""
    machines = {host for name in (*hosts, socket.gethostname()) for host in (name, name.partition(".")[0])}
    return LocalNames(
        names=frozenset(n for n in (*machines, user) if n and n.lower() not in _ORDINARY), folders=folders
    )
