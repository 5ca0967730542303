"""Claims of the literature against what one run measured, or several with other seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from data.figures import finite
from data.store import read_json
from evaluation.effects import FILE, VERDICTS, combine, t_interval
from evaluation.report.folder import LARGEST_JSON_BYTES, FoundStage, mapping
from evaluation.report.markup import badge, line, table, table_cells
from evaluation.report.number_tables import words
from evaluation.report.summary import number

MOST_ROWS = 200
"""Of a table."""
_BADGES = {"shown": "right", "opposite": "wrong"}
_INTERVAL = ("mean", "low", "high")
_TEXTS = ("name", "claim", "source", "metric", "unit")
_NOTE = """<p class="quiet">Shown: the 95 % interval of the paired difference lies wholly on the claimed side,
in every run. Opposite: wholly on the other side. Anything else is not shown.</p>"""


def read_effects(run: Sequence[FoundStage]) -> list[dict[str, Any]]:
    """The effects that a run measured, in the order of its stages; none where it has no such stage.

    Raises:
        ValueError: a stage's effects are not what they should be.
    """
    rows: list[dict[str, Any]] = []
    for found in run:
        path = found.folder / FILE
        if not path.is_file():
            continue
        if path.stat().st_size > LARGEST_JSON_BYTES:
            raise ValueError(f"{found.name}: {FILE} is too large to be read")
        content = mapping(read_json(path)).get("effects")
        if not isinstance(content, list) or not all(map(_is_effect, content)):
            raise ValueError(f"{found.name}: {FILE} holds no effects")
        rows += content
    return rows


def _is_effect(row: Any) -> bool:
    """Whether a row has what is shown of it."""
    row = mapping(row)
    sides = [mapping(row.get(side)) for side in ("better", "than")]
    numbers = [mapping(row.get("difference")), *sides]
    return (
        all(isinstance(row.get(key), str) for key in _TEXTS)
        and row.get("verdict") in VERDICTS
        and (row.get("margin") is None or finite(row["margin"]) is not None)
        and all(row.get(key) is None or isinstance(row[key], str) for key in ("claim_is", "at_most_cost"))
        and all(finite(part.get(key)) is not None for part in numbers for key in ("mean", "low", "high"))
        and all(isinstance(side.get("label"), str) for side in sides)
    )


def combined_effects(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The claims that all runs with effects share."""
    return combine({name: rows for name, rows in runs.items() if rows})


def counted(rows: Sequence[Mapping[str, Any]]) -> str:
    """Such as "9 shown, 3 not shown, 1 opposite"."""
    counts = Counter(row["verdict"] for row in rows)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])


def effects_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row for each claim: what was measured on both sides, the difference in each run and in all."""
    several = any(len(row["seeds"]) > 1 for row in rows)
    head = ["claim", "verdict", "measured", "difference", *(["over the runs"] if several else [])]
    body = "".join(f"<tr>{table_cells(_cells(row, several))}</tr>\n" for row in rows[:MOST_ROWS])
    left_out = len(rows) - MOST_ROWS
    more = f"<p class='quiet'>and {left_out:,} more claims</p>" if left_out > 0 else ""
    return f"""<div class="box"><table class="effects"><tr>{table_cells(head, "th")}</tr>
{body}</table></div>{more}{_NOTE}"""


def _cells(row: Mapping[str, Any], several: bool) -> list[str]:
    seeds = row["seeds"]
    note = row.get("note") or ("" if several else seeds[0].get("note"))
    verdict = badge(row["verdict"], _BADGES.get(row["verdict"], ""))
    differences = "<br>".join(_difference(seed["difference"]) for seed in seeds)
    return [
        f"<b>{line(row['claim'], 240)}</b><br><span class='quiet'>{line(row['source'])}</span>",
        verdict + (f"<br><span class='quiet'>{line(str(note))}</span>" if note else ""),
        "<br>".join(_side([seed[side] for seed in seeds], row["unit"]) for side in ("better", "than")),
        f"{differences} <span class='quiet'>{line(row['unit'], 20)}</span>",
        *([_difference(row)] if several else []),
    ]


def _side(sides: Sequence[Mapping[str, Any]], unit: str) -> str:
    """What was measured, the mean of all runs."""
    mean = sum(side["mean"] for side in sides) / len(sides)
    mark = " %" if unit == "points" else ""
    return f"{mean:.1f}{mark} <span class='quiet'>{line(sides[0]['label'], 60)}</span>"


def _difference(found: Mapping[str, Any]) -> str:
    mean, low, high = found["mean"], found["low"], found["high"]
    bounds = "" if low is None else f" <span class='quiet'>[{low:+.1f}, {high:+.1f}]</span>"
    return f"{mean:+.1f}{bounds}"


def over_runs(runs: Mapping[str, Sequence[FoundStage]]) -> str:
    """The headline numbers of all evaluations in each of several runs, and their mean with its interval."""
    values: dict[tuple[str, str], dict[str, float]] = {}
    for run, stages in runs.items():
        for found in stages:
            if found.stage not in _MEASURING:
                continue
            for key, value in found.metrics.items():
                if isinstance(value, float) and finite(value) is not None:
                    values.setdefault((found.name, key), {})[run] = value
    rows = []
    for (stage, key), by_run in values.items():
        given = list(by_run.values())
        low, high = t_interval(given) or (None, None)
        bounds = f" <span class='quiet'>[{number(low)}, {number(high)}]</span>" if low is not None else ""
        each = [number(by_run.get(run)) for run in runs]
        mean = number(sum(given) / len(given)) + bounds
        rows.append([f"{line(stage)} <span class='quiet'>{words(key)}</span>", mean, *each])
    return table(rows[:MOST_ROWS], ["", "mean", *(line(run, 40) for run in runs)]) if rows else ""


_MEASURING = ("evaluate", "compare", "test_time", "evaluate_prm", "evaluate_search")
"""Stages whose numbers measure; those of others say what was done."""
