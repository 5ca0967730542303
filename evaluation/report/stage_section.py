"""One stage on the page of a run: a line that says what came of it, and folded below it all that is known."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import yaml

from evaluation.report.environment import command_again
from evaluation.report.folder import FoundStage, mapping
from evaluation.report.markup import badge, line, plain_block
from evaluation.report.number_tables import plain_numbers, tables, words
from evaluation.report.summary import duration, picked

STATUS_BADGES = {"finished": "right", "failed": "wrong", "missing": "wrong"}
"""Others are told with doubt."""
MOST_CHARACTERS = 8_000
LOG_BYTES = 6_000
_FEW_TABLES = 2
"""So many are shown at once."""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def stage_section(
    found: FoundStage,
    place: int,
    about: str,
    pictures: Sequence[str],
    rejected: str,
    log: str,
    anchors: Mapping[str, str],
) -> str:
    """A stage.

    Args:
        place: among the stages of the run, from 0.
        about: a sentence on what such a stage does; may be empty.
        pictures, rejected: HTML.
        log: the end of its log.
        anchors: HTML that leads to other stages, by their names.
    """
    counts, numbers = picked(found.metrics)
    whole = found.status == "finished" and not found.problems
    came = " · ".join(line(text.replace("->", "→"), 160) for text in [*counts, *numbers][:6])
    took = duration(found.seconds) if found.seconds is not None else ""
    return f"""<details class="stage" id="stage-{place}"{"" if whole else " open"}><summary>
<span class="name">{line(found.name, 60)}</span>
<span class="came">{came}</span>
<span class="took">{took}</span>
{badge(line(found.status, 24), STATUS_BADGES.get(found.status, "warn"))}
</summary><div class="inside">
{_what(found, about, anchors)}{_trouble(found)}
{f"<div class='pictures'>{''.join(pictures)}</div>" if pictures else ""}
{_numbers(found)}{rejected}{_again(found)}{_log(log, whole)}
</div></details>
"""


def _what(found: FoundStage, about: str, anchors: Mapping[str, str]) -> str:
    sentence = f"<b>{line(found.stage)}</b>: {escape(about)}" if about else f"<b>{line(found.stage)}</b>"
    read = ", ".join(anchors.get(name) or f"<code>{line(name)}</code>" for name in found.inputs[:12])
    return f"<p>{sentence if found.stage else ''}{f'. It reads {read}.' if read else '.'}</p>"


def _trouble(found: FoundStage) -> str:
    """The error of a stage, and what was seen that goes wrong in training."""
    error, seen = found.manifest.get("error"), mapping(found.metrics.get("warnings"))
    parts = []
    if isinstance(error, str) and error != found.status:
        parts.append(f"<div class='trouble'><b>error</b>{plain_block(error, MOST_CHARACTERS)}</div>")
    if seen:
        steps = ", ".join(
            f"{words(name)} (step {line(str(step), 20)})" for name, step in list(seen.items())[:12]
        )
        parts.append(f"<div class='trouble'><b>warnings of the training</b> {steps}</div>")
    return "".join(parts)


def _numbers(found: FoundStage) -> str:
    plain = plain_numbers(found.metrics)
    shown = "".join(f"<div><dt>{key}</dt><dd>{value}</dd></div>" for key, value in plain)
    more = tables(found.metrics)
    opened = " open" if more.count("<h4>") <= _FEW_TABLES else ""
    return (f"<dl class='numbers'>{shown}</dl>" if shown else "") + (
        f"<details{opened}><summary>all numbers</summary>{more}</details>" if more else ""
    )


def _again(found: FoundStage) -> str:
    command = command_again(found)
    parts = [f"<h4>run it again</h4>{plain_block(command, MOST_CHARACTERS)}"] if command else []
    if found.recipe:
        text = yaml.safe_dump(found.recipe, sort_keys=False, allow_unicode=True, width=100)
        parts.append(f"<details><summary>recipe</summary>{plain_block(text, MOST_CHARACTERS)}</details>")
    return "".join(parts)


def _log(text: str, whole: bool) -> str:
    if not text:
        return ""
    opened = "" if whole else " open"
    return f"<details{opened}><summary>end of its log</summary>{plain_block(text, LOG_BYTES)}</details>"


def log_end(folder: Path) -> str:
    """The last lines of a stage's log, without what colours a terminal; empty where there is none.

    Raises:
        OSError: it cannot be read.
    """
    path = folder / "log.txt"
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        text = file.read().decode("utf-8", "replace")
    return _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).strip()
