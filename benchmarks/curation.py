"""Curation at size: decontamination beside s1's, and the stages collect and curate over a pool of real
questions.

    python -m benchmarks.curation [--quick] [--data FOLDER] [--peer FILE]

Speed: the same pool and benchmarks for both, in turns. `decontamination_speedup` is one pass of either
side over the whole pool; `speedup_as_run` is s1's way, in which every source also joins the texts that
the next ones may not share, against our decontamination and near-duplicate removal. Recall: leaks planted
from MATH test. Clean: GSM8K train against competition benchmarks. Stages: questions of the pool (and of
MATH test) with a trace each, in a process of their own; the larger pool is the smaller one ten times,
with other numbers or other words. Peak memory is that of the process plus its largest child.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.curation_reference import (
    Decontaminate,
    peer_decontaminate,
    plants,
    s1_as_run,
    s1_decontaminate,
)
from data.collect import decontaminate, deduplicate, drop_near_duplicates
from data.decontaminate import BenchmarkIndex
from data.load_source import load_problems
from data.schema import Problem
from data.sources import parse_source
from data.suspects import suspects

THRESHOLD = 0.7
BENCHMARKS = ("math500", "aime24", "aime25", "amc23")
_STAGES = """
import json, resource, sys, time
from pathlib import Path
from data.collect import CollectConfig, collect
from data.curate import CurateConfig, curate
if __name__ == "__main__":
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    start = time.perf_counter()
    collected = collect(CollectConfig(**options["collect"]), folder / "collect")
    middle = time.perf_counter()
    curated = curate(CurateConfig(problems=str(folder / "collect"), traces=[str(folder / "collect")],
        **options["curate"]), folder / "curate")
    peak = sum(resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    end = time.perf_counter()
    rows = {"rows_in": collected["rows_in"], "rows_out": curated["rows_out"], "rules": collected["rules"]}
    seconds = {"collect_seconds": middle - start, "curate_seconds": end - middle}
    print(json.dumps({**rows, **seconds, "gib": peak / 2**20}))
"""


def pool_sources() -> list[list[Problem]]:
    """The questions of every source of the pool."""
    free = [
        {"path": str(path), "role": "train", "columns": {"question": "prompt"}}
        for path in sorted((Path(os.environ["SLOWTHINK_DATA"]) / "difficulty").glob("deepscaler_level*.json"))
    ]
    known = [{"id": name, "split": "train"} for name in ("math", "gsm8k", "aime_1983_2023")]
    return [load_problems(parse_source(entry, "pool"))[0] for entry in [*free, *known]]


def benchmark_problems(names: Sequence[str]) -> list[Problem]:
    """All rows of these benchmarks."""
    entries = [{"id": name, "split": "test"} for name in names]
    return [problem for entry in entries for problem in load_problems(parse_source(entry, "benchmark"))[0]]


def ours_decontaminate(questions: Sequence[str], benchmark: Sequence[Problem]) -> set[int]:
    """Numbers of the questions that ours drops."""
    index = BenchmarkIndex(benchmark)
    return {number for number in suspects(index, questions) if index.match(questions[number])}


def ours_as_run(sources: Sequence[Sequence[Problem]], benchmark: Sequence[Problem]) -> int:
    """Questions left of decontamination and near-duplicate removal over all sources."""
    ranks = {part[0].source: rank for rank, part in enumerate(sources)}
    problems, _ = deduplicate((problem for part in sources for problem in part), ranks)
    clean, _ = decontaminate(problems, BenchmarkIndex(benchmark))
    return len(drop_near_duplicates(problems, clean, THRESHOLD, ranks)[0])


def timed(function: Any, *arguments: Any) -> tuple[float, Any]:
    """(seconds, result)."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def speed(sources: list[list[Problem]], theirs: Decontaminate, rounds: int) -> dict[str, Any]:
    """Both sides in turns over the same pool."""
    benchmark = benchmark_problems(BENCHMARKS)
    texts = [[problem.question for problem in part] for part in sources]
    pool, tests = [text for part in texts for text in part], [problem.question for problem in benchmark]
    ratios, result = [], {}
    for _ in range(rounds):
        mine, found = timed(ours_decontaminate, pool, benchmark)
        its, its_found = timed(theirs, pool, tests)
        ratios.append(its / mine)
        result = {"ours_seconds": round(mine, 2), "s1_seconds": round(its, 2), "questions": len(pool)}
        result |= {"ours_drops": len(found), "s1_drops": len(its_found), "only_s1": len(its_found - found)}
    mine, left = timed(ours_as_run, sources, benchmark)
    its, its_left = timed(s1_as_run, texts, tests)
    return {
        "decontamination_speedup": round(median(ratios), 2),
        "speedup_as_run": round(its / mine, 2),
        **result,
        "left_as_run": left,
        "s1_left_as_run": its_left,
    }


def recall(count: int, clean_count: int | None, theirs: Decontaminate) -> dict[str, Any]:
    """Share of planted leaks that is found, by kind, and share of clean questions that is dropped."""
    benchmark = benchmark_problems(["math"])
    tests = [problem.question for problem in benchmark]
    result: dict[str, Any] = {}
    totals = {"ours": 0, "s1": 0, "all": 0}
    for kind, leaks in plants(tests, count, seed=0).items():
        mine, its = len(ours_decontaminate(leaks, benchmark)), len(theirs(leaks, tests))
        totals = {"ours": totals["ours"] + mine, "s1": totals["s1"] + its, "all": totals["all"] + len(leaks)}
        result[f"recall_{kind}"] = [round(mine / len(leaks), 4), round(its / len(leaks), 4)]
        print(f"{kind:9} {len(leaks):5} planted: ours {mine:5}, s1 {its:5}")
    clean = [p.question for p in load_problems(parse_source({"id": "gsm8k", "split": "train"}, "clean"))[0]][
        :clean_count
    ]
    competition = benchmark_problems(BENCHMARKS)
    mine = len(ours_decontaminate(clean, competition))
    its = len(theirs(clean, [problem.question for problem in competition]))
    return {
        "leak_recall": round(totals["ours"] / totals["all"], 4),
        "s1_leak_recall": round(totals["s1"] / totals["all"], 4),
        "clean_drop_rate": round(mine / len(clean), 5),
        "s1_clean_drop_rate": round(its / len(clean), 5),
        **result,
    }


def edited(question: str, copy: int, rng: random.Random) -> str:
    """The question itself, then copies of it with other numbers (odd) or with words added (even)."""
    if copy == 0:
        return question
    if copy % 2:
        return re.sub(r"\d+", lambda match: str(int(match[0][:9]) + copy), question)
    return f"{rng.choice(['Solve.', 'Try this one.', 'Please answer.'])} {question} ({copy})"


def stages(problems: Sequence[Problem], copies: int) -> dict[str, Any]:
    """Run collect and curate in a process of their own; rows_in is len(problems) * copies."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "pool.jsonl"
        with open(path, "w", encoding="utf-8") as file:
            for copy in range(copies):
                for p in problems:
                    question = edited(p.question, copy, rng)
                    row = {"question": question, "answer": p.answer, "domain": p.domain or p.source[-8:]}
                    file.write(
                        json.dumps({**row, "thinking": p.solution or p.question, "response": p.answer}) + "\n"
                    )
        columns = {"thinking": "thinking", "response": "response"}
        options = {
            "collect": {
                "sources": [{"path": str(path), "role": "train", "columns": columns}],
                "benchmarks": [{"id": name} for name in BENCHMARKS],
                "near_duplicates": THRESHOLD,
            },
            "curate": {
                "require_correct": False,
                "size": 1000,
                "allow_fewer": True,
                "diversity": "s1",
                "seed": 42,
            },
        }
        script = Path(temporary) / "stages.py"
        script.write_text(_STAGES)
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
        command = [sys.executable, str(script), temporary, json.dumps(options)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curation", description="Curation at size")
    parser.add_argument("--quick", action="store_true", help="a small part of the data, to see that it runs")
    parser.add_argument("--data", help="folder of the data, else $SLOWTHINK_DATA")
    parser.add_argument(
        "--peer", type=Path, help="s1's own data/decontaminate_util.py, instead of our words for it"
    )
    arguments = parser.parse_args()
    if arguments.data:
        os.environ["SLOWTHINK_DATA"] = arguments.data
    theirs = peer_decontaminate(arguments.peer) if arguments.peer else s1_decontaminate
    sources = pool_sources()
    if arguments.quick:
        sources = [part[:100] for part in sources]
    result = speed(sources, theirs, 1 if arguments.quick else 3)
    result |= recall(20 if arguments.quick else 1000, 200 if arguments.quick else None, theirs)
    pool = [problem for part in [*sources, benchmark_problems(["math"])] for problem in part]
    size = 300 if arguments.quick else 59_000
    small = stages(pool[:size], 1)
    large = stages(pool[:size], 10)
    for name, run in (("59k", small), ("590k", large)):
        print(
            name, {key: round(value, 2) if isinstance(value, float) else value for key, value in run.items()}
        )
    seconds = [run["collect_seconds"] + run["curate_seconds"] for run in (small, large)]
    result |= {
        "seconds_59k": round(seconds[0], 1),
        "gib_59k": round(small["gib"], 2),
        "gib_590k": round(large["gib"], 2),
        "time_ratio_590k_to_59k": round(seconds[1] / seconds[0], 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
