"""Stage `label_steps`: labels for the steps of attempts, by rolling out from where each step ends.

Methods: monte_carlo (Math-Shepherd, arXiv 2312.08935) for every step, binary_search (OmegaPRM, arXiv
2406.06592) for the first wrong one. Attempts are rollouts of their own prefixes, prefixes that attempts share
are rolled out once, and the last step has the attempt's own verdict.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data.processes import is_part, worker, workers, world
from data.progress import Progress
from data.schema import Attempt, Rejected, attempt_row, rejected
from data.sources import refuse_eval_rows
from data.stage import run_stage
from data.step_tables import write_labelled
from data.steps import LabelledSolution, fault, labelled_row
from data.store import Journal, read_attempts, write_rejected
from data.thinking import thinking_format
from inference.draw import make_prompter, not_seen, render_prompts
from inference.engine import Engine, load_engine
from inference.options import GenerationOptions
from inference.ranks import wait
from inference.step_judge import JOURNAL as JUDGE_JOURNAL
from inference.step_judge import Opinion, StepJudge, judge_all
from inference.step_prefixes import Labelling, Prefix, Solution, Tally, make_solutions
from inference.step_rollouts import JOURNAL, Rollouts, Wave, finished_waves, settle

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class LabelStepsConfig(GenerationOptions):
    """Fields of stage `label_steps`. Prompt and sampling should be those with which the attempts were
    drawn."""

    attempts: str
    """Stage folder (run:03_sample) or parquet file with the attempts."""
    method: Literal["monte_carlo", "binary_search"] = "monte_carlo"
    """monte_carlo: a label for every step. binary_search: 1 before the first wrong step, 0 at it, none
    behind; about log2(steps) prefixes of a wrong attempt are rolled out, of a right one none."""
    labels: Literal["hard", "soft"] = "hard"
    """Of monte_carlo. hard: 1 where a right completion is known, else 0. soft: the share of right ones."""
    rollouts: int = 8
    """Completions of a prefix, the attempts that begin with it among them. For hard labels half of the others
    are drawn first, and the rest only if these do not decide."""
    min_right: int = 1
    """Hard labels: right completions that make a step right. One is what the papers take; where errors cancel
    each other at times, 2 is less easily fooled."""
    count_attempts: bool = True
    """Soft labels: whether attempts are among the completions of their prefixes."""
    step_separator: str = "\n\n"
    """Text between two steps; a line break where a line is a step."""
    judge: dict = field(default_factory=dict)
    """A second opinion: base_url and model of an OpenAI-compatible chat endpoint, further fields as in
    inference/step_judge.py. Only solutions stay for which the judge names the same first wrong step."""
    limit: int | None = None
    """Only the first so many attempts."""

    def __post_init__(self) -> None:
        GenerationOptions.__post_init__(self)
        if self.rollouts < 1:
            raise ValueError(f"rollouts: {self.rollouts} must be at least 1")
        if not 1 <= self.min_right <= self.rollouts:
            raise ValueError(f"min_right: {self.min_right} must be from 1 to rollouts: {self.rollouts}")
        if self.min_right > 1 and self.method == "monte_carlo" and self.labels == "soft":
            raise ValueError("min_right: soft labels are shares; drop it or take labels: hard")
        if self.temperature == 0 and self.rollouts > 1:
            raise ValueError("rollouts: with temperature 0 all are the same; use 1, or a temperature above 0")
        if self.method == "binary_search" and self.labels == "soft":
            raise ValueError("labels: method binary_search gives hard ones; use method: monte_carlo")
        if not self.step_separator:
            raise ValueError("step_separator: must not be empty")
        if self.budget() is not None or self.resample_longer_than is not None:
            raise ValueError(
                "label_steps: rollouts have no control of thinking: leave out max_thinking_tokens, "
                "min_thinking_tokens, waits and resample_longer_than"
            )
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: {self.limit} must be at least 1")
        if self.judge:
            StepJudge.parse(self.judge)

    def labelling(self) -> Labelling:
        return Labelling(
            labeller=(
                "binary_search"
                if self.method == "binary_search"
                else "monte_carlo_soft"
                if self.labels == "soft"
                else "monte_carlo_hard"
            ),
            rollouts=self.rollouts,
            min_right=self.min_right,
            count_attempts=self.count_attempts,
        )


def label_steps(config: LabelStepsConfig, folder: Path) -> dict[str, Any]:
    """Write step_labels.parquet. Killed and started again, it ends with the same rows."""
    start = time.monotonic()
    attempts = read_attempts(config.attempts)[: config.limit]
    if not attempts:
        raise ValueError(f"attempts: {config.attempts} holds no attempt")
    refuse_eval_rows((attempt.problem for attempt in attempts), f"attempts: {config.attempts}")
    solutions, bad = roll_out(config, attempts, folder)
    if is_part():
        return {}
    labelled, unlabelled = label(config, solutions)
    kept, parted, opinions = consult(config, labelled, folder)
    write_labelled(folder, kept)
    write_rejected(folder, [*bad, *unlabelled, *parted])
    for name in (JOURNAL, JUDGE_JOURNAL):
        for path in folder.glob(f"{name}*"):
            path.unlink()
    return {
        "attempts": len(attempts),
        "solutions": len(kept),
        "rejected": len(attempts) - len(kept),
        **opinions,
        **rollout_metrics(solutions, labelled),
        **label_metrics(kept),
        "seconds": time.monotonic() - start,
    }


def roll_out(
    config: LabelStepsConfig, attempts: Sequence[Attempt], folder: Path, engine: Engine | None = None
) -> tuple[list[Solution], list[Rejected]]:
    """The attempts in steps, with the rollouts that their labels need, and those that cannot have any.

    Finished rollouts are kept in a journal in `folder`, from which a killed run goes on. In a launch of
    several processes each draws those of a part of the problems; the first one gets all of them.

    Args:
        engine: of this config, where it is already loaded.
    Raises:
        ValueError: no attempt can be labelled; names the first reason.
    """
    engine = engine or load_engine(config)
    solutions, bad = split_attempts(config, attempts, engine)
    if not solutions:
        raise ValueError(f"attempts: none can be labelled; first reason: {bad[0].rule}: {bad[0].evidence}")
    if strangers := {s.attempt.completion.model for s in solutions} - {engine.name}:
        names = ", ".join(sorted(strangers))
        logger.warning("attempts by %s count as rollouts, which are those of %s", names, engine.name)
    wait()  # for the run folder, which the first process makes
    known = finished_waves(folder)
    wait()  # until all have read
    if known:
        logger.info("going on after %d finished waves of rollouts", len(known))
    numbers = {id: number for number, id in enumerate(dict.fromkeys(s.attempt.problem.id for s in solutions))}
    own = [s for s in solutions if numbers[s.attempt.problem.id] % workers() == worker()]
    with Journal(folder / (f"{JOURNAL}.{worker()}" if workers() > 1 else JOURNAL)) as journal:
        rollouts = Rollouts(config, engine, journal, known)
        _settle_with_bar(own, config.labelling(), rollouts)
    wait()
    if world() > 1 and not is_part():
        gather_rollouts(solutions, config.labelling(), folder)
    return solutions, bad


def gather_rollouts(solutions: Sequence[Solution], labelling: Labelling, folder: Path) -> None:
    """Give solutions the rollouts that all processes have drawn.

    Raises:
        OSError: some are in no journal.
    """
    known = finished_waves(folder)

    def drawn(waves: list[Wave]) -> list[Tally]:
        if lost := sum(wave.name not in known for wave in waves):
            raise not_seen(folder, f"{lost} of {len(waves)} waves of rollouts")
        return [known[wave.name] for wave in waves]

    settle(solutions, labelling, drawn)


def split_attempts(
    config: LabelStepsConfig, attempts: Sequence[Attempt], engine: Engine
) -> tuple[list[Solution], list[Rejected]]:
    """The attempts in steps, and those that cannot be labelled (`make_solutions`) or whose problems cannot be
    put to the model (`render_prompts`)."""
    problems = list({attempt.problem.id: attempt.problem for attempt in attempts}.values())
    prompter = make_prompter(config, engine)
    longest = engine.max_model_tokens - config.max_tokens
    prompts, unusable = render_prompts(problems, prompter, longest, config.question_suffix)
    why = {row.id: row for row in unusable}
    form = thinking_format(config.thinking_format)
    solutions, bad = make_solutions(
        attempts, prompts, engine.tokenizer, form, config.step_separator, config.max_tokens
    )
    unput = [(attempt, why[attempt.problem.id]) for attempt in attempts if attempt.problem.id in why]
    return solutions, [*(rejected(attempt_row(a), row.rule, row.evidence) for a, row in unput), *bad]


def _settle_with_bar(solutions: Sequence[Solution], labelling: Labelling, rollouts: Rollouts) -> None:
    """`settle` with a progress bar, whose total is what may be drawn at most."""
    with Progress(desc="rollouts", unit="rollout") as bar:

        def draw(waves: list[Wave]) -> list[Tally]:
            bar.total = bar.n + labelling.most_left(solutions)
            bar.refresh()
            return rollouts(waves)

        rollouts.done = lambda count, tokens: bar.update(count, tokens=tokens)
        settle(solutions, labelling, draw)
        bar.total = bar.n


def label(
    config: LabelStepsConfig, solutions: Sequence[Solution]
) -> tuple[list[LabelledSolution], list[Rejected]]:
    """The labels of solutions that were rolled out, in their order, and those of which no step has one."""
    labelling = config.labelling()
    labelled = []
    bad = []
    for solution in solutions:
        made = LabelledSolution(
            problem=solution.attempt.problem,
            steps=solution.steps,
            labels=labelling.labels(solution),
            right=solution.right,
            model=solution.attempt.completion.model,
            labeller=labelling.labeller,
        )
        why = fault(made.steps, made.labels, config.step_separator)
        if why is None:
            labelled.append(made)
        else:
            bad.append(rejected(labelled_row(made), *why))
    return labelled, bad


def consult(
    config: LabelStepsConfig, labelled: Sequence[LabelledSolution], folder: Path
) -> tuple[list[LabelledSolution], list[Rejected], dict[str, int]]:
    """The solutions in which judge and rollouts see the same first error, the others with both opinions, and
    how many there are of each kind; all solutions where no judge is asked."""
    if not config.judge:
        return list(labelled), [], {}
    opinions = judge_all(StepJudge.parse(config.judge), labelled, folder)
    kept, parted = [], []
    for solution, opinion in zip(labelled, opinions, strict=True):
        why = _disagreement(solution, opinion)
        if why is None:
            kept.append(solution)
        else:
            parted.append(rejected(labelled_row(solution), *why))
    return kept, parted, {"judged": len(labelled), **Counter(row.rule for row in parted)}


def _disagreement(solution: LabelledSolution, opinion: Opinion | str) -> tuple[str, str] | None:
    """Rule and evidence where the judge has another opinion or none."""
    if isinstance(opinion, str):
        return "judge_failed", opinion
    if opinion.first_error is None:
        return "judge_unreadable", opinion.reply
    if opinion.first_error != solution.first_error:
        both = f"first wrong step: rollouts {solution.first_error}, judge {opinion.first_error}"
        return "judge_disagrees", f"{both}\n{opinion.reply}"
    return None


def rollout_metrics(
    solutions: Sequence[Solution], labelled: Sequence[LabelledSolution]
) -> dict[str, int | float]:
    """What was drawn, and what it cost by label."""
    drawn = Tally()
    prefixes: dict[Prefix, None] = {prefix: None for solution in solutions for prefix in solution.prefixes}
    for prefix in prefixes:
        drawn.add(prefix.drawn)
    labels = sum(label is not None for solution in labelled for label in solution.labels)
    return {
        "labels": labels,
        "prefixes": len(prefixes),
        "rolled_out": sum(prefix.drawn.rollouts > 0 for prefix in prefixes),
        "rollouts": drawn.rollouts,
        "right_rollouts": drawn.right,
        "unverifiable_rollouts": drawn.unverifiable,
        "tokens": drawn.tokens,
        "rollouts_per_label": drawn.rollouts / max(labels, 1),
        "tokens_per_label": drawn.tokens / max(labels, 1),
    }


def label_metrics(labelled: Sequence[LabelledSolution]) -> dict[str, Any]:
    """Shares of steps by label (soft ones: right from one half on), and where first errors are."""
    labels = [label for solution in labelled for label in solution.labels]
    total = max(len(labels), 1)
    positions = Counter(solution.first_error for solution in labelled)
    return {
        "steps": len(labels),
        "right_steps": sum(label is not None and label >= 0.5 for label in labels) / total,
        "wrong_steps": sum(label is not None and label < 0.5 for label in labels) / total,
        "unlabelled_steps": sum(label is None for label in labels) / total,
        "first_errors": {str(position): positions[position] for position in sorted(positions)},
    }


if __name__ == "__main__":
    run_stage(label_steps, LabelStepsConfig, shares=True)
