"""Run folders as stages leave them, small, with any text in every place that holds one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.rollouts import write_rollouts
from data.schema import Attempt, Completion, Problem, Rejected
from data.store import write_attempts, write_rejected, write_rows
from inference.search.results import result_row
from tests.evaluation.report.test_rollout_page import CUT_OFF, RIGHT, WRONG
from tests.evaluation.report.test_tree_page import ROWS, SEARCH

STAGES = ("01_sample", "02_grpo", "03_evaluate", "04_search", "05_effects")
ACCURACY = {"mean": 0.625, "low": 0.5, "high": 0.75, "problems": 40}


def make_run(run: Path, text: str = "", difference: float = 30.0) -> Path:
    """A finished run of every kind of content.

    Args:
        text: put into every text that is not a program's.
        difference: of its one claim, in points.
    """
    sample = stage(run, "01_sample", metrics={"problems": 2, "attempts": 4, "tokens": 4321}, tokens=4321)
    write_attempts(sample, attempts(text))
    write_rejected(
        sample, [Rejected(id=f"r{text}", rule=f"too_long{text}", evidence=f"of it{text}", row="{}")]
    )
    grpo = stage(
        run,
        "02_grpo",
        metrics={"reward_first": 0.5, "reward_last": 0.75, "warnings": {f"length{text}": 7}},
        inputs={"run:01_sample": {"fingerprint": "f", "stat": ""}, f"files/{text[:200]}": {}},
        recipe={"stage": "grpo", "thinking_format": "think_tags", "prompt": f"Answer.{text}"},
    )
    write_log(grpo)
    for step in (0, 1, 2):
        group = [RIGHT, WRONG, CUT_OFF, WRONG, WRONG, RIGHT]
        write_rollouts(
            grpo,
            step,
            [
                replace(row, step=step, index=i, question=f"1 + 1?{text}", text=row.text + text)
                for i, row in enumerate(group)
            ],
        )
    benchmark = {"problems": 40, "accuracy": ACCURACY, "pass@1": ACCURACY, "formatted": ACCURACY}
    evaluate = stage(
        run, "03_evaluate", metrics={f"sums{text} pass@1": 0.625, "benchmarks": {f"sums{text}": benchmark}}
    )
    write_attempts(evaluate, attempts(text))
    search = stage(run, "04_search")
    problem = Problem(id="p0", question=f"6 * 7?{text}", answer="42")
    searches = [
        replace(SEARCH, problem=problem, setting=f"{s} n=4{text}", strategy=s) for s in ("beam", "dvts")
    ]
    write_rows(search / "searches.parquet", [result_row(one) for one in searches], "searches")
    nodes = [
        {**row, "text": row["text"] and row["text"] + text, "id": "p0", "setting": one.setting}
        for one in searches
        for row in ROWS
    ]
    write_rows(search / "nodes.parquet", nodes, "nodes")
    write_json(stage(run, "05_effects") / "effects.json", {"effects": [effect(text, difference)]})
    return run


def stage(run: Path, name: str, metrics: Any = None, **manifest: Any) -> Path:
    """A stage's folder with its manifest, log and metrics."""
    kind = name.partition("_")[2]
    folder = run / name
    folder.mkdir(parents=True)
    plain = {
        "pipeline": run.name,
        "name": name,
        "stage": kind,
        "status": "finished",
        "recipe": {"stage": kind, "seed": 0},
        "inputs": {},
        "seed": 0,
        "git": {"commit": "0123abcd", "dirty": False},
        "packages": {"torch": "2.13.0", "trl": "1.16.0"},
        "host": {"name": "laptop", "cpus": 2, "omp_num_threads": "1", "python": "3.11.7"},
        "command": ["/x/stage.py", "--config", f"recipes/mine/{name}.yaml"],
        "started": "2026-01-01T00:00:00+00:00",
        "ended": "2026-01-01T00:01:05+00:00",
        "seconds": 65.0,
        "tokens": None,
    }
    write_json(folder / "manifest.json", {**plain, **manifest})
    write_json(folder / "metrics.json", metrics or {})
    (folder / "log.txt").write_text(f"{name} began\n", encoding="utf-8")
    return folder


def write_log(folder: Path) -> None:
    """What a trainer logs, of a few steps."""
    rows = [
        {"step": step, "loss": 1 / (step + 1), "rollouts/reward": step / 10, "rollouts/right": step / 10}
        for step in range(8)
    ]
    write_json(folder / "log_history.json", rows)


def attempts(text: str) -> list[Attempt]:
    """One that is right, one that is wrong, one that was cut off, one that no verifier could read."""
    kinds = [("correct", "stop"), ("wrong", "stop"), ("wrong", "length"), ("unverifiable", "stop")]
    return [attempt(i, verdict, finish, text) for i, (verdict, finish) in enumerate(kinds)]


def attempt(index: int, verdict: Any, finish: Any, text: str) -> Attempt:
    thinking, response = f"{verdict} {finish}{text}", f"\\boxed{{{index}}}{text}"
    completion = Completion(
        text=f"<think>\n{thinking}\n</think>\n\n{response}",
        thinking=thinking,
        response=response,
        finish_reason=finish,
        prompt_tokens=5,
        thinking_tokens=7,
        completion_tokens=11,
        model="m",
        seed=0,
    )
    return Attempt(
        problem=Problem(id="p0", question=f"Which?{text}", answer="0"),
        index=index,
        completion=completion,
        verdict=verdict,
        extracted=str(index),
    )


def effect(text: str, difference: float, verdict: str = "shown") -> dict[str, Any]:
    """A row of effects.json."""
    sides = {
        side: {"label": f"{side}{text}", "mean": mean, "low": mean - 5, "high": mean + 5, "cost": None}
        for side, mean in (("better", 40.0 + difference), ("than", 40.0))
    }
    return {
        "name": "one",
        "claim": f"More is better{text}",
        "source": f"A paper{text}",
        "metric": "accuracy",
        "unit": "points",
        **sides,
        "difference": {"mean": difference, "low": difference - 5, "high": difference + 5},
        "problems": 40,
        "verdict": verdict,
        "note": "",
    }


def write_json(path: Path, value: Any) -> None:
    """In ASCII, which tells half characters, too."""
    path.write_text(json.dumps(value), encoding="ascii")
