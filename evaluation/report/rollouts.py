"""Which completions of a GRPO step `slowthink show STAGE --rollouts` shows, and what is told of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path

from data.rollouts import FOLDER, Rollout, logged_steps, read_rollouts
from data.thinking import ThinkingFormat
from evaluation.report.folder import read_stage
from evaluation.report.rollout_text import visible

VERDICTS = ("right", "wrong", "unverifiable")
COMPLETION_TRAITS = (*VERDICTS, "truncated", "unformatted")
GROUP_TRAITS = ("useful", "replaced")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which completions to look at."""

    step: str = "last"
    """A logged step, first or last."""
    only: str | None = None
    """One of COMPLETION_TRAITS or GROUP_TRAITS."""
    contains: str | None = None
    """Text that the completion contains, letter by letter."""
    id: str | None = None
    """The problem's id."""
    limit: int | None = None
    """At most so many groups."""

    def options(self) -> str:
        """The filters as they are typed."""
        filters = {"--only": self.only, "--contains": self.contains, "--id": self.id}
        return " ".join(f"{key} {value}" for key, value in filters.items() if value is not None)


@dataclass(frozen=True, slots=True)
class Judged:
    """A completion and what can be asked of it."""

    rollout: Rollout

    @property
    def verdict(self) -> str:
        """One of VERDICTS."""
        return {"correct": "right", "wrong": "wrong"}.get(self.rollout.verdict, "unverifiable")

    @property
    def traits(self) -> tuple[str, ...]:
        """Those of COMPLETION_TRAITS that it has, the verdict first."""
        flags = {"truncated": self.rollout.truncated, "unformatted": not self.rollout.formatted}
        return (self.verdict, *(name for name, has in flags.items() if has))


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The completions of one problem."""

    all: list[Judged]
    chosen: list[Judged]
    """Those to look at."""

    @property
    def first(self) -> Rollout:
        return self.all[0].rollout

    @property
    def traits(self) -> tuple[str, ...]:
        """Those of GROUP_TRAITS that it has."""
        replaced = not any(judged.rollout.trained for judged in self.all)
        return tuple(
            name for name, has in zip(GROUP_TRAITS, (self.first.useful, replaced), strict=True) if has
        )

    @property
    def right(self) -> int:
        """How many completions are right."""
        return sum(judged.verdict == "right" for judged in self.all)


@dataclass(frozen=True, kw_only=True)
class View:
    """What was chosen, and the step that it is from."""

    folder: Path
    step: int
    logged: list[int]
    choice: Choice
    form: ThinkingFormat
    everything: list[Group]
    """All groups of the step."""
    groups: list[Group]
    """Those with something to look at, at most `choice.limit`."""
    matching: int
    """How many there are without the limit."""

    @cached_property
    def completions(self) -> list[Judged]:
        """All of the step."""
        return [judged for group in self.everything for judged in group.all]

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Completions or groups of the step by trait."""
        holders = [*self.completions, *self.everything]
        return Counter(trait for holder in holders for trait in holder.traits)

    @property
    def mean_reward(self) -> float | None:
        return mean(judged.rollout.reward for judged in self.completions)


def select(folder: Path, choice: Choice) -> View:
    """Read a step's rollouts and choose among them.

    Raises:
        ValueError: no such folder, no rollouts in it, a step that was not logged, or nothing matches.
    """
    if choice.limit is not None and choice.limit < 1:
        raise ValueError(f"--limit: {choice.limit} must be at least 1")
    logged = _logged(folder)
    step = _step(folder, choice.step, logged)
    everything = _groups(list(read_rollouts(folder, step)))
    matching = [group for group in (_filtered(group, choice) for group in everything) if group.chosen]
    view = View(
        folder=folder,
        step=step,
        logged=logged,
        choice=choice,
        form=read_stage(folder).form,
        everything=everything,
        groups=matching[: choice.limit],
        matching=len(matching),
    )
    if not matching:
        raise ValueError(_nothing(view))
    return view


def _logged(folder: Path) -> list[int]:
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist; name the folder of a GRPO stage, runs/<pipeline>/<stage>")
    if logged := logged_steps(folder):
        return logged
    beside = sorted({path.parent.parent.name for path in folder.glob(f"*/{FOLDER}/step-*.parquet")})
    there = f"stages with rollouts in it: {', '.join(beside)}" if beside else "only GRPO stages write them"
    raise ValueError(f"{folder}: no rollouts here; {there}")


def _step(folder: Path, wanted: str, logged: list[int]) -> int:
    there = f"logged steps of {folder} are {step_ranges(logged)}"
    if wanted in ("first", "last"):
        return logged[0] if wanted == "first" else logged[-1]
    try:
        step = int(wanted)
    except ValueError:
        raise ValueError(f"--step: {wanted!r} is neither a number nor first or last; {there}") from None
    if step not in logged:
        raise ValueError(f"--step: step {step} was not logged; {there}")
    return step


def step_ranges(steps: Sequence[int]) -> str:
    """Ascending steps in few words, such as "0 to 29", "0 to 90 in steps of 10" or "0 to 4, 7"."""
    strides = {after - before for before, after in pairwise(steps)}
    if len(steps) > 2 and len(strides) == 1 and (stride := strides.pop()) > 1:
        return f"{steps[0]} to {steps[-1]} in steps of {stride}"
    runs = [[step for _, step in run] for _, run in groupby(enumerate(steps), lambda pair: pair[1] - pair[0])]
    words = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return ", ".join(words if len(words) <= 8 else [*words[:6], "...", words[-1]])


def _groups(rollouts: list[Rollout]) -> list[Group]:
    rollouts.sort(key=lambda rollout: (rollout.group, rollout.index))
    members = (list(rows) for _, rows in groupby(rollouts, lambda rollout: rollout.group))
    return [Group(all=list(map(Judged, rows)), chosen=list(map(Judged, rows))) for rows in members]


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are known; None where there is none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def number(value: float | None, sign: str = "") -> str:
    """A reward or advantage in four digits; "-" where there is none."""
    return "-" if value is None else f"{value or 0.0:{sign if value else ''}.4g}"


def _filtered(group: Group, choice: Choice) -> Group:
    chosen = [
        judged
        for judged in group.all
        if (choice.only is None or choice.only in (*judged.traits, *group.traits))
        and (choice.contains is None or choice.contains in judged.rollout.text)
        and (choice.id is None or choice.id == judged.rollout.id)
    ]
    return replace(group, chosen=chosen)


def _nothing(view: View) -> str:
    """Why nothing matched, and what there is."""
    ids = list(dict.fromkeys(group.first.id for group in view.everything))
    if view.choice.id is not None and view.choice.id not in ids:
        there = ", ".join(map(visible, ids[:16])) + (f" and {len(ids) - 16} more" if len(ids) > 16 else "")
        return f"--id: step {view.step} has no problem {view.choice.id!r}; its problems are {there}"
    there = ", ".join(f"{view.counts[trait]} {trait}" for trait in COMPLETION_TRAITS)
    groups = ", ".join(f"{view.counts[trait]} {trait}" for trait in GROUP_TRAITS)
    return (
        f"step {view.step}: nothing matches {view.choice.options() or 'at all'}; "
        f"of its {len(view.completions)} completions are {there}; "
        f"of its {len(view.everything)} groups are {groups}"
    )
