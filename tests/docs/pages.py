"""What the pages of the project show: shell commands, recipes and other blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("README.md", "CONTRIBUTING.md", "docs/*.md", "recipes/*/README.md")
    for path in ROOT.glob(pattern)
)
PROGRAMS = ("slowthink", "python", "accelerate", "make", "pytest", "pip", "bash", "vllm", "source")
SHELL = ("export", "cp", "head", "tail")
"""What else a line of a block may begin with."""
OTHER = (
    "recipes/  ",  # the tree of folders
    "launch -> training",  # the direction of imports
    "pipeline = [",  # Python, datatrove
    "LocalPipelineExecutor(",
    "rows of a step ",  # arithmetic
    "rank 0 on hosta",  # output
    "error: rank 1 on hostb",
    "03_sample  finished",
    "06_grpo  running",
    "#SBATCH",  # a rendered script
)
"""Begins of the blocks that are neither commands nor recipes."""
FENCES = {"bash": "shell", "yaml": "yaml", "jsonl": "other", "python": "other", "text": "other", "": "other"}
Kind = Literal["shell", "flags", "yaml", "other", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Lines of code that stand together."""

    page: str
    line: int
    text: str
    kind: Kind

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of a page, as the shell would split it."""

    where: str
    words: tuple[str, ...]
    variables: tuple[str, ...] = ()
    """NAME=VALUE before it."""

    def __str__(self) -> str:
        return shlex.join([*self.variables, *self.words])


def blocks(page: str) -> list[Block]:
    """Indented and fenced blocks of a page, at their blank lines."""
    found: list[Block] = []
    lines: list[str] = []
    fence: str | None = None
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").split("\n"), 1):
        mark = re.fullmatch(r"```(\w*)", line)
        inside = (fence is not None and not mark) or (fence is None and line.startswith("    "))
        if inside and line.strip():
            lines.append(line if fence is not None else line[4:])
        elif lines and (fence is None or mark):
            found.append(_block(page, number - len(lines), "\n".join(lines), fence))
            lines = []
        if mark:
            fence = mark[1] if fence is None else None
    assert not lines
    return found


def _block(page: str, line: int, text: str, fence: str | None) -> Block:
    kind: Any = _kind(text) if fence is None else FENCES.get(fence, "unknown")
    return Block(page=page, line=line, text=text, kind=kind)


def _kind(text: str) -> Kind:
    if text.startswith(OTHER):
        return "other"
    code = "\n".join(line for line in text.split("\n") if not line.startswith("# "))
    if code.startswith("--"):
        return "flags"
    first = re.sub(r"^(\w+=(<[^>]*>|\S+) )+", "", code).split(maxsplit=1)[0]
    if first in (*PROGRAMS, *SHELL):
        return "shell"
    try:
        return "yaml" if isinstance(yaml.safe_load(text), dict | list) else "unknown"
    except yaml.YAMLError:
        return "unknown"


def commands(page: str) -> list[Command]:
    """The shell commands of a page's blocks, then those within its sentences.

    Flags that stand alone (`--class_weights balanced`) are behind the last `slowthink STAGE --config FILE`
    above them.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = blocks(page)
    found = [command for block in shown if block.kind == "shell" for command in parse(block.text, str(block))]
    found += _within_sentences(page, text)
    of_stages = [command for command in found if command.words[2:3] == ("--config",)]
    for block in shown:
        if block.kind == "flags":
            above = [command for command in of_stages if _line(command) < block.line]
            assert above, f"{block}: nothing above these flags says which stage they are for"
            last = max(above, key=_line)
            options = [shlex.split(line, comments=True) for line in _lines(block.text)]
            found += [Command(where=str(block), words=(*last.words, *o)) for o in options if o]
    return found


def _line(command: Command) -> int:
    return int(command.where.rpartition(":")[2])


def _within_sentences(page: str, text: str) -> Iterator[Command]:
    """Spans of code that begin with a program and have arguments; `slowthink run` alone only names it."""
    plain = re.sub(r"(?m)^(    .*|```[\s\S]*?^```)$", lambda match: "\n" * match[0].count("\n"), text)
    for match in re.finditer(r"`([^`]+)`", plain):
        span = re.sub(r"\s+", " ", match[1])
        words = re.sub(r"^(\w+=\S+ )+", "", span).split()
        least = 2 if words[:1] in (["make"], ["pytest"]) else 3
        if len(words) >= least and words[0] in PROGRAMS:
            yield from parse(span, f"{page}:{plain[: match.start()].count(chr(10)) + 1}")


def parse(text: str, where: str) -> list[Command]:
    """The commands of some lines: with continuations, without comments, one for each part of `a && b`."""
    found = []
    for line in _lines(re.sub(r"<[^<>\n]+>", "PLACEHOLDER", text)):
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word not in ("&&", "&"):
                words.append(word)
            elif words:
                variables = tuple(w for w in words if re.match(r"[A-Z_]+=", w))[: _leading(words)]
                rest = tuple(words[len(variables) :])
                found.append(Command(where=where, words=rest, variables=variables))
                words = []
    return found


def _leading(words: list[str]) -> int:
    """How many assignments stand before the program."""
    return next((n for n, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), len(words))


def _lines(text: str) -> Iterator[str]:
    """Lines as the shell takes them: with continuations and with quotes that end on a later line."""
    line = ""
    for part in text.split("\n"):
        line = f"{line}\n{part}" if line else part
        if line.endswith("\\"):
            line = line[:-1]
            continue
        try:
            shlex.split(line, comments=True)
        except ValueError:  # an open quote
            continue
        yield line.replace("\\\n", " ") if "'" not in line else line
        line = ""
    assert not line, f"a quote is never closed: {line}"
