"""Stage `evaluate_prm`: what a reward model is worth on labelled solutions, and for choosing attempts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.figures import write_png
from data.schema import Attempt
from data.stage import run_stage
from data.step_sources import load_steps, parse_step_sources
from data.steps import LabelledSolution, steps_of
from data.store import read_attempts, write_rejected
from data.thinking import thinking_format
from evaluation.prm_metrics import Scores, best_threshold
from evaluation.prm_plot import best_of_n_picture, reliability_picture
from evaluation.prm_report import attempt_metrics, has_both_kinds, set_metrics
from evaluation.prm_scores import JOURNAL, Scorable, score_all, write_scores
from inference.scorers.load import ScorerOptions, load_scorer
from inference.scorers.reward_model import saved_options
from inference.scorers.scorer import Aggregation

logger = logging.getLogger(__name__)

ATTEMPTS = "attempts"
"""Name of the attempts among the sets."""
PAPER_SET = "processbench/gsm8k"
"""The set on which the authors of ProcessBench choose the threshold of a reward model."""


@dataclass(kw_only=True)
class EvaluatePrmConfig(ScorerOptions):
    """Fields of stage `evaluate_prm`."""

    sets: list[dict[str, Any]] = field(default_factory=list)
    """Labelled solutions; keys are the fields of `data.step_sources.StepSource`."""
    threshold_set: str = ""
    """Name of the set on which the threshold and the baselines' are chosen; without it processbench/gsm8k (as
    ProcessBench does), or else the first set with both kinds of solutions."""
    threshold: float | None = None
    """A step with a score below is called wrong; null: the one with the best F1 on threshold_set."""
    attempts: str = ""
    """Folder of a stage `sample` whose attempts are chosen from by score."""
    thinking_format: str = "think_tags"
    """Thinking format of the attempts."""
    step_separator: str = ""
    """What attempts are split at into steps; without it what a reward model of stage prm was trained with, or
    a blank line for others."""
    aggregation: Aggregation = "last"
    """How the scores of an attempt's steps make the one by which it is chosen."""
    n: list[int] = field(default_factory=list)
    """Attempts to choose among; without it 1, 2, 4, ... and all."""
    seed: int = 0
    """Seed of the intervals and of random subsets."""

    def __post_init__(self) -> None:
        ScorerOptions.__post_init__(self)
        if not self.sets and not self.attempts:
            raise ValueError("sets: give at least one, for example {id: processbench/gsm8k}, or `attempts:`")
        names = [source.name for source in parse_step_sources(self.sets, "sets")]
        if len({*names, ATTEMPTS}) <= len(names):
            raise ValueError(f"sets: names repeat in {[*names, ATTEMPTS]}; give each entry its own `name`")
        if self.threshold_set and self.threshold_set not in names:
            raise ValueError(
                f"threshold_set: {self.threshold_set!r} is not among the sets {', '.join(names)}"
            )
        thinking_format(self.thinking_format)
        if any(n < 1 for n in self.n):
            raise ValueError(f"n: {min(self.n)} is less than 1")


def evaluate_prm(config: EvaluatePrmConfig, folder: Path) -> dict[str, Any]:
    """Score all sets and attempts; write scores.parquet, rejected/, plots/ and the table of metrics."""
    sets = load_sets(config)
    chosen_on = threshold_set(config, sets)
    attempts = read_attempts(config.attempts) if config.attempts else []
    if config.attempts and not attempts:
        raise ValueError(f"attempts: {config.attempts} holds none")
    work = [*_solutions(sets), *attempt_work(attempts, config)]
    scorer = load_scorer(config)
    scores, bad = score_all(scorer, work, folder)
    if bad:
        logger.warning("%d solutions could not be scored and count as misses: %s", len(bad), bad[0].evidence)
    results = measure(config, sets, chosen_on, scores)
    if attempts:
        results["attempts"] = attempt_metrics(
            attempts,
            [scores[ATTEMPTS, i] for i in range(len(attempts))],
            aggregation=config.aggregation,
            ns=config.n,
            seed=config.seed,
        )
    write_scores(folder / "scores.parquet", work, scores, scorer.name)
    write_rejected(folder, bad)
    write_plots(folder / "plots", results, scorer.name)
    (folder / JOURNAL).unlink(missing_ok=True)
    print_tables(results, scorer.name)
    return {**headline(results), "scored": len(work) - len(bad), "tokens": scorer.forwarded_tokens, **results}


def load_sets(config: EvaluatePrmConfig) -> dict[str, list[LabelledSolution]]:
    """The solutions of each set by its name.

    Raises:
        ValueError: a set is empty, or a row of it is bad: a benchmark is used whole or not at all.
    """
    sets = {}
    for source in parse_step_sources(config.sets, "sets"):
        loaded = load_steps(source)
        if loaded.rejected:
            first = loaded.rejected[0]
            raise ValueError(
                f"{source.key}: {source.name} has {len(loaded.rejected)} bad rows, the first: {first.rule} "
                f"({first.evidence}); a benchmark with missing rows is another benchmark, and stage "
                "collect_steps leaves them out of other sets"
            )
        sets[source.name] = loaded.solutions
    return sets


def threshold_set(config: EvaluatePrmConfig, sets: Mapping[str, Sequence[LabelledSolution]]) -> str:
    """Name of the set on which thresholds are chosen; empty where no set has F1.

    Raises:
        ValueError: the one that the config names has only solutions with, or only without, an error.
    """
    both = [name for name, solutions in sets.items() if has_both_kinds(solutions)]
    if config.threshold_set and config.threshold_set not in both:
        raise ValueError(
            f"threshold_set: the solutions of {config.threshold_set} are all with, or all without, an error; "
            "a threshold is chosen on both kinds"
        )
    wanted = config.threshold_set or PAPER_SET
    return wanted if wanted in both else next(iter(both), "")


def _solutions(sets: Mapping[str, Sequence[LabelledSolution]]) -> Iterable[Scorable]:
    for name, solutions in sets.items():
        for index, solution in enumerate(solutions):
            yield Scorable(
                set=name,
                index=index,
                problem=solution.problem.id,
                question=solution.problem.question,
                steps=solution.steps,
                labels=solution.labels,
                right=solution.right,
            )


def attempt_work(attempts: Sequence[Attempt], config: EvaluatePrmConfig) -> list[Scorable]:
    """The attempts in steps, those of the thinking and of the response."""
    form, separator = thinking_format(config.thinking_format), separator_of(config)
    verdicts = {"correct": True, "wrong": False, "unverifiable": None}
    return [
        Scorable(
            set=ATTEMPTS,
            index=index,
            problem=attempt.problem.id,
            question=attempt.problem.question,
            steps=tuple(step.text for step in steps_of(attempt.completion.text, form, separator)),
            right=verdicts[attempt.verdict],
        )
        for index, attempt in enumerate(attempts)
    ]


def separator_of(config: EvaluatePrmConfig) -> str:
    """What the attempts are split at."""
    return config.step_separator or saved_options(config.scorer_model).get("step_separator", "\n\n")


def measure(
    config: EvaluatePrmConfig,
    sets: Mapping[str, Sequence[LabelledSolution]],
    chosen_on: str,
    scores: Mapping[tuple[str, int], Scores],
) -> dict[str, Any]:
    """Metrics of every set, with the threshold and where it is from (`threshold_set`, null: the recipe)."""
    of_set = {name: [scores[name, i] for i in range(len(rows))] for name, rows in sets.items()}
    threshold = config.threshold
    if threshold is None:
        threshold = best_threshold(sets[chosen_on], of_set[chosen_on]) if chosen_on else 0.5
    return {
        "threshold": threshold,
        "threshold_set": chosen_on if config.threshold is None else None,
        "baselines_set": chosen_on,
        "sets": {
            name: set_metrics(
                solutions,
                of_set[name],
                threshold=threshold,
                chosen_on=sets.get(chosen_on, ()),
                seed=config.seed,
            )
            for name, solutions in sets.items()
        },
    }


def headline(results: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that stand in the summary of the stage."""
    found = {
        f"{name} F1": metrics["first_error"]["f1"]
        for name, metrics in results["sets"].items()
        if metrics["first_error"]
    }
    if "attempts" not in results:
        return found
    last = results["attempts"]["best_of_n"][-1]
    methods = ("majority", "best_of_n", "weighted_best_of_n")
    return {**found, **{f"{method}@{last['n']}": last[method]["mean"] for method in methods}}


def write_plots(folder: Path, results: Mapping[str, Any], model: str) -> None:
    """Write reliability.png and best_of_n.png, where there is something to draw."""
    if results["sets"]:
        write_png(reliability_picture("reliability", results["sets"], model), folder / "reliability.png")
    if "attempts" in results:
        rows, how = results["attempts"]["best_of_n"], results["attempts"]["aggregation"]
        write_png(best_of_n_picture("best-of-n", rows, f"{model} ({how})"), folder / "best_of_n.png")


def print_tables(results: Mapping[str, Any], model: str) -> None:
    """Print a line for each set with its baselines, and one for each n."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    def table(title: str, columns: Sequence[str]) -> Table:
        made = Table(title=title, box=SIMPLE_HEAD, padding=0, title_justify="left")
        for column in columns:
            made.add_column(column, justify="left" if column == "set" else "right", no_wrap=True)
        return made

    console = Console()
    if results["sets"]:
        chosen = results["threshold_set"] or "the recipe"
        title = f"{model}: threshold {results['threshold']:.3g} from {chosen}; 95 % intervals"
        columns = ("set", "rows", "F1", "error", "right", "AUC", "ECE", "base")
        sets = table(title, columns)
        for name, metrics in results["sets"].items():
            sets.add_row(name, *_set_cells(metrics))
        console.print(sets)
    if "attempts" in results:
        title = f"{model}: choosing by {results['attempts']['aggregation']} score; 95 % intervals"
        methods = ("majority", "best_of_n", "best_of_n_gain", "weighted_best_of_n", "weighted_best_of_n_gain")
        choices = table(title, ("n", "majority", "best", "gain", "vote", "gain", "oracle"))
        for row in results["attempts"]["best_of_n"]:
            cells = (
                _interval(row[m], "mean") if m.endswith("gain") else f"{row[m]['mean']:.3f}" for m in methods
            )
            choices.add_row(str(row["n"]), *cells, f"{row['oracle']['mean']:.3f}")
        console.print(choices)


def _set_cells(metrics: Mapping[str, Any]) -> list[str]:
    """AUC is that of steps; base is the F1 of the best baseline, which reads no step."""
    found, auc = metrics["first_error"], metrics["step_auc"]
    return [
        str(metrics["solutions"]),
        _interval(found, "f1") if found else "-",
        *(f"{found[key]:.3f}" if found else "-" for key in ("error_accuracy", "correct_accuracy")),
        f"{auc['auc']:.3f}" if auc else "-",
        f"{metrics['calibration_error']:.3f}",
        f"{max(row['f1'] for row in metrics['baselines'].values()):.3f}" if found else "-",
    ]


def _interval(row: Mapping[str, float], key: str) -> str:
    return f"{row[key]:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


if __name__ == "__main__":
    run_stage(evaluate_prm, EvaluatePrmConfig)
