"""Data-parallel stages with one and with two processes, on the same work in turns, on the CPU.

    python -m benchmarks.scaling [--quick] [--stages sample search ...]

Work: stages of the quickstart's models (its run folder, or $SLOWTHINK_RUNS), started as users start them,
each process with one thread. Every stage runs on a small and on a large part of the work: what the large one
takes longer is the work alone, without the start of Python and the loading of the model, which more processes
do not shorten. `speedup` is that difference with one process by that with two, `whole_speedup` the time of
the large stage, start included.

`same_rows` is the share of the rows of one process that two processes have too, and exactly so. Sampled
tokens may differ where another batch rounds otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from data.recipe import runs_root
from data.store import read_json, read_rows

ROOT = Path(__file__).resolve().parents[1]
TWO = {"config": "ddp_cpu", "num_processes": 2}
MODEL = {"dtype": "float32", "bad_words": ["Wait"], "max_tokens": 120, "batch_size": 64, "seed": 0}

WORK: dict[str, tuple[dict[str, Any], str, tuple[int, int], str]] = {
    "sample": (
        {"problems": "15_collect_unseen", "model_name_or_path": "05_sft", "num_completions": 96},
        "limit",
        (40, 200),
        "attempts",
    ),
    "evaluate": (
        {
            "benchmarks": [{"name": "chains", "id": "small_world", "split": "eval", "limit": 0, "seed": 2}],
            "model_name_or_path": "05_sft",
            "num_completions": 96,
            "k": [1, 4],
        },
        "benchmarks.0.limit",
        (40, 200),
        "attempts",
    ),
    "label_steps": (
        {
            "attempts": "12_sample_chains",
            "model_name_or_path": "06_grpo",
            "method": "monte_carlo",
            "rollouts": 8,
            "step_separator": "\n",
        },
        "limit",
        (200, 2000),
        "step_labels",
    ),
    "search": (
        {
            "problems": "15_collect_unseen",
            "model_name_or_path": "05_sft",
            "scorer_model": "14_prm",
            "scorer_dtype": "float32",
            "step_separator": "\n",
            "strategies": [{"strategy": "beam", "n": 16, "width": 4}],
        },
        "limit",
        (20, 200),
        "attempts",
    ),
}
"""Of each stage: fields (names of stages stand for their folders), the field that sets its size, both sizes,
and the table that it writes."""


def fields_of(stage: str, size: int, quickstart: Path) -> dict[str, Any]:
    """The recipe of a stage, of that size."""
    fields, key, _, _ = WORK[stage]
    made = json.loads(json.dumps({**MODEL, **fields}))
    for name, value in made.items():
        if isinstance(value, str) and (quickstart / value).is_dir():
            made[name] = str(quickstart / value)
    *path, last = key.split(".")
    place: Any = made
    for part in path:
        place = place[int(part)] if part.isdigit() else place[part]
    place[last] = size
    return {"stage": stage, **made}


def run(stage: str, size: int, processes: int, quickstart: Path) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of the stage from its start to its end, and its rows."""
    with TemporaryDirectory() as folder:
        recipe = Path(folder) / "scaling" / "01_stage.yaml"
        recipe.parent.mkdir()
        launch = {"launch": TWO} if processes == 2 else {}
        recipe.write_text(yaml.safe_dump({**fields_of(stage, size, quickstart), **launch}))
        environment = {**os.environ, "SLOWTHINK_RUNS": f"{folder}/runs", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "launch.cli", stage, "--config", str(recipe)]
        start = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        seconds = time.monotonic() - start
        if done.returncode:
            raise RuntimeError(f"{stage} failed:\n{done.stderr[-2000:]}")
        made = Path(folder) / "runs" / "scaling" / "01_stage"
        assert read_json(made / "manifest.json")["status"] == "finished"
        table = WORK[stage][3]
        return seconds, read_rows(made / f"{table}.parquet", table)


def measure(stage: str, rounds: int, quickstart: Path) -> dict[str, Any]:
    """Speedups of a stage, medians over the rounds."""
    sizes = WORK[stage][2]
    speedups, wholes, same = [], [], 1.0
    for _ in range(rounds):
        times, rows = {}, {}
        for size in sizes:
            for processes in (1, 2):
                times[size, processes], rows[processes] = run(stage, size, processes, quickstart)
        small, large = sizes
        speedups.append((times[large, 1] - times[small, 1]) / (times[large, 2] - times[small, 2]))
        wholes.append(times[large, 1] / times[large, 2])
        keys = [{json.dumps(row, sort_keys=True, default=str) for row in rows[n]} for n in (1, 2)]
        same = min(same, len(keys[0] & keys[1]) / len(keys[0]))
    return {
        "speedup": round(median(speedups), 2),
        "lowest": round(min(speedups), 2),
        "highest": round(max(speedups), 2),
        "whole_speedup": round(median(wholes), 2),
        "same_rows": round(same, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round instead of three")
    parser.add_argument("--stages", nargs="+", choices=WORK, default=list(WORK))
    options = parser.parse_args()
    quickstart = (runs_root() / "quickstart").resolve()
    if not (quickstart / "14_prm").is_dir():
        raise SystemExit(f"{quickstart} has no finished quickstart; run `make quickstart` first")
    found = {}
    for stage in options.stages:
        found[stage] = measure(stage, 1 if options.quick else 3, quickstart)
        print(
            f"{stage:<12} " + "  ".join(f"{key} {value}" for key, value in found[stage].items()), flush=True
        )
    print(json.dumps({"cores": os.cpu_count(), "stages": found}))


if __name__ == "__main__":
    main()
