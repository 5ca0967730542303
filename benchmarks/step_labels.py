"""Automatic step labels against the truth and what they cost, on the small world, where each line is checked.

    python -m benchmarks.step_labels --policy runs/quickstart/05_sft [--quick]

Work: attempts of a trained policy at problems of 4 to 8 steps, without check passes (`bad_words: [Wait]`). A
label is the judgement whether all lines so far are right. Only lines have labels here: the answer behind them
has the attempt's verdict in every way.

Ways: ours by stage `label_steps` (hard, soft, binary_search), and Math-Shepherd (arXiv 2312.08935)
as published, `each_hard` and `each_soft`: all rollouts of every step of every attempt, nothing shared. Tokens
are those that were generated for rollouts. `first_error` is the share of attempts whose first wrong line (or
that there is none) is named exactly. Intervals are 95 %, by Student's t over the seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import and_
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch

from data.schema import Attempt
from data.small_world import WAIT, check_steps, generate_problems
from inference.draw import draw
from inference.engine import Engine, load_engine
from inference.label_steps import LabelStepsConfig, roll_out
from inference.sample import SampleConfig
from inference.step_prefixes import Solution


class Size(NamedTuple):
    """How much is measured."""

    problems: int
    attempts: int
    """Of each problem."""
    rollouts: tuple[int, ...]
    seeds: int


FULL = Size(200, 4, (4, 8), 3)
QUICK = Size(12, 4, (4,), 2)

WAYS: dict[str, dict[str, Any]] = {
    "hard": {"labels": "hard"},
    "soft": {"labels": "soft"},
    "binary_search": {"method": "binary_search"},
    "each": {"labels": "soft", "count_attempts": False},
}

Labels = Sequence[float | None]


class Measured(NamedTuple):
    """Labels of lines with the truth, one entry for each solution, and what they cost."""

    labels: Sequence[Labels]
    truths: list[list[bool]]
    rollouts: int
    tokens: int


def true_labels(attempt: Attempt) -> list[bool]:
    """Whether all lines up to each one of the thinking are right."""
    lines = check_steps(attempt.problem.question, attempt.completion.thinking)
    return list(accumulate(lines, and_))


def score(measured: Measured) -> dict[str, float]:
    """Labels below one half say wrong. Missing labels count in `labelled` alone."""
    pairs = [
        (label, truth)
        for labels, truths in zip(measured.labels, measured.truths, strict=True)
        for label, truth in zip(labels, truths, strict=True)
        if label is not None
    ]
    said = {
        truth: [(label >= 0.5) == truth for label, own in pairs if own == truth] for truth in (False, True)
    }
    named = [
        first_error(labels) == first_error([float(truth) for truth in truths])
        for labels, truths in zip(measured.labels, measured.truths, strict=True)
    ]
    return {
        "accuracy": mean(said[False] + said[True]),
        "wrong_found": mean(said[False]),
        "right_kept": mean(said[True]),
        "auc": auc(pairs),
        "first_error": mean(named),
        "labelled": len(pairs) / sum(map(len, measured.truths)),
        "rollouts_per_label": measured.rollouts / len(pairs),
        "tokens_per_label": measured.tokens / len(pairs),
    }


def first_error(labels: Labels) -> int:
    return next((i for i, label in enumerate(labels) if label is not None and label < 0.5), -1)


def auc(pairs: Iterable[tuple[float, bool]]) -> float:
    """Probability that a right line has a higher label than a wrong one, ties half."""
    from sklearn.metrics import roc_auc_score

    labels, truths = zip(*pairs, strict=True)
    return float(roc_auc_score(truths, labels))


def interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean over the seeds and its 95 % interval (none for one seed)."""
    if len(values) < 2:
        return {"mean": values[0], "low": None, "high": None}
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return {"mean": mean(values), "low": mean(values) - half, "high": mean(values) + half}


# ------------------------------------------------------------------ measuring


def options(policy: str, seed: int) -> dict[str, Any]:
    """How attempts and rollouts are drawn."""
    return {
        "model_name_or_path": policy,
        "dtype": "float32",
        "batch_size": 256,
        "max_tokens": 128,
        "bad_words": [WAIT],
        "seed": seed,
    }


def make_attempts(policy: str, size: Size, seed: int, engine: Engine, folder: Path) -> list[Attempt]:
    """Attempts whose thinking has lines."""
    problems = generate_problems(size.problems, seed, "train", 4, 8)
    config = SampleConfig(problems="", num_completions=size.attempts, **options(policy, seed))
    attempts, _ = draw(config, problems, size.attempts, folder, engine)
    return [attempt for attempt in attempts if attempt.completion.thinking]


def measure(
    way: str, rollouts: int, attempts: Sequence[Attempt], policy: str, seed: int, engine: Engine, folder: Path
) -> dict[str, Measured]:
    """One way, or both of `each`."""
    own = LabelStepsConfig(
        attempts="", rollouts=rollouts, step_separator="\n", **WAYS[way], **options(policy, seed)
    )
    solutions, _ = roll_out(own, attempts, folder, engine)
    lines = [len(true_labels(solution.attempt)) for solution in solutions]
    truths = [true_labels(solution.attempt) for solution in solutions]
    if way == "each":
        all_drawn = [prefix.drawn for solution in solutions for prefix in solution.prefixes]
        cost = sum(tally.rollouts for tally in all_drawn), sum(tally.tokens for tally in all_drawn)
        each = {"each_soft": False, "each_hard": True}
        return {
            name: Measured([alone(s, n, hard) for s, n in zip(solutions, lines, strict=True)], truths, *cost)
            for name, hard in each.items()
        }
    drawn = [prefix.drawn for prefix in dict.fromkeys(p for s in solutions for p in s.prefixes)]
    labels = [own.labelling().labels(s)[:n] for s, n in zip(solutions, lines, strict=True)]
    cost = sum(tally.rollouts for tally in drawn), sum(tally.tokens for tally in drawn)
    return {way: Measured(labels, truths, *cost)}


def alone(solution: Solution, lines: int, hard: bool) -> Labels:
    """Labels of a solution by the rollouts of its own steps, with its verdict for the last step."""
    values = [tally.right / tally.rollouts for tally in (prefix.drawn for prefix in solution.prefixes)]
    values = [*values, float(solution.right)][:lines]
    return [float(value > 0) for value in values] if hard else values


def run(policy: str, size: Size) -> dict[str, Any]:
    """All measurements; prints the table and returns the last line."""
    scores: dict[str, list[dict[str, float]]] = defaultdict(list)
    work: dict[str, list[float]] = defaultdict(list)
    engine = load_engine(SampleConfig(problems="", **options(policy, 0)))
    for seed in range(size.seeds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            attempts = make_attempts(policy, size, seed, engine, folder)
            work["attempts"].append(len(attempts))
            work["right"].append(mean(attempt.verdict == "correct" for attempt in attempts))
            for rollouts in size.rollouts:
                for way in WAYS:
                    begin = time.perf_counter()
                    place = folder / f"{way}-{rollouts}"
                    found = measure(way, rollouts, attempts, policy, seed, engine, place)
                    seconds = time.perf_counter() - begin
                    for key, measured in found.items():
                        row = score(measured) | {"seconds": seconds}
                        scores[f"{key}_{rollouts}"].append(row)
                        print(f"seed {seed} {key}_{rollouts}: {row}", flush=True)
    return {
        "benchmark": "step_labels",
        "policy": policy,
        "size": size._asdict(),
        "work": {key: interval(values) for key, values in work.items()},
        "ways": {
            way: {key: interval([row[key] for row in rows]) for key in rows[0]}
            for way, rows in scores.items()
        },
        "load_average": round(os.getloadavg()[0], 1),
    }


def table(ways: dict[str, dict[str, dict[str, float | None]]]) -> str:
    """Means and half widths of the intervals."""
    keys = list(next(iter(ways.values())))
    lines = [f"| way | {' | '.join(keys)} |", "|---" * (len(keys) + 1) + "|"]
    for way, values in sorted(ways.items()):
        lines.append(f"| {way} | {' | '.join(_cell(values[key]) for key in keys)} |")
    return "\n".join(lines)


def _cell(value: dict[str, float | None]) -> str:
    center, high = value["mean"], value["high"]
    assert center is not None
    return f"{center:.3f}" if high is None else f"{center:.3f} ± {high - center:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.step_labels", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--policy", required=True, help="folder of a model of the small world")
    parser.add_argument("--quick", action="store_true", help="few problems, two seeds")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    result = run(given.policy, QUICK if given.quick else FULL)
    print(table(result["ways"]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
