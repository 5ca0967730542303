"""`slowthink doctor rewards`: who gets paid? Every reward of a recipe on honest answers and on known
exploits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import yaml
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from data.recipe import RecipeError
from data.thinking import thinking_format
from rewards.checked import checked
from rewards.registry import Reward, build_rewards
from rewards.specimens import Specimen, program_specimens, specimens

R1_ZERO: dict[str, Any] = {"thinking_format": "answer_tags", "rewards": ["accuracy", "format"]}
"""Rewards of DeepSeek-R1-Zero (arXiv 2501.12948, section 2.2.2); examined where no recipe is given."""
_TOKEN = re.compile(r"\w{1,6}|\s|[^\w\s]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Payment:
    """What one specimen earned."""

    specimen: Specimen
    scores: tuple[float | None, ...]
    """By reward; None: could not be judged, or the reward is for other domains."""
    total: float
    """Weighted sum; None counts as nothing, as in TRL."""


def doctor(path: Path | None, file: IO[str] | None = None, *, more: Mapping[str, type] | None = None) -> int:
    """Examine the rewards of a recipe file, of every recipe in a folder that has some, or of R1-Zero.

    The specimens answer questions whose answers can be checked: rewards for other domains are not called, and
    a recipe without any that applies is passed over.

    Args:
        more: see `rewards.registry.build_rewards`.
    Returns:
        0 when no exploit is paid like an honest answer, else 1.

    Raises:
        ValueError: no such file, no rewards in it, rewards that cannot be built, or a reward model that
            applies to the specimens.
    """
    paid = 0
    for name, recipe in _recipes(path):
        form_name = recipe.get("thinking_format", "think_tags")
        prefilled = recipe.get("thinking_prefilled", False)
        rewards = build_rewards(recipe["rewards"], form_name, prefilled, more=more)
        if not _examinable(name, rewards):
            print(f"{name}: no reward applies to questions with a checkable answer: passed over", file=file)
            continue
        payments = pay(rewards, form_name)
        paid += _print(file, name, rewards, payments)
    return 1 if paid else 0


def _examinable(name: str, rewards: Sequence[Reward]) -> bool:
    """Whether any reward applies to the specimens.

    Raises:
        ValueError: one that does is a model.
    """
    domains = {specimen_domain(rewards, programs=programs) for programs in (False, True)}
    applying = [reward for reward in rewards if any(map(reward.applies_to, domains))]
    for reward in applying:
        if getattr(reward.function, "is_learned", False):
            raise ValueError(
                f"{name}: rewards: {reward.name}: the doctor examines rules and loads no model; give it "
                "`domains:` of the questions that no rule can judge, or examine a copy without it"
            )
    return bool(applying)


def specimen_domain(rewards: Sequence[Reward], *, programs: bool) -> str:
    """The domain that the specimens are taken to be of: of those for which a reward that tells right answers
    (for programs: `code`) is given, the one with the most rewards; empty where such rewards name none."""
    checkers = [
        reward
        for reward in rewards
        if getattr(reward.function, "tells_right", False)
        and (type(reward.function).__name__ == "Code") == programs
    ]
    named = [domain for checker in checkers for domain in checker.domains]
    return max(named, key=lambda domain: sum(r.applies_to(domain) for r in rewards), default="")


def pay(rewards: Sequence[Reward], form_name: str) -> list[Payment]:
    """Pay every specimen. All specimens of one question are one group, as in GRPO; a token is a short run of
    letters, since no tokenizer is at hand."""
    form = thinking_format(form_name)
    examined = specimens(form)
    if any(type(reward.function).__name__ == "Code" for reward in rewards):
        examined += program_specimens(form)
    columns: dict[str, list[Any]] = {
        "prompts": [s.task.question for s in examined],
        "completions": [s.text for s in examined],
        "completion_ids": [[0] * len(_TOKEN.findall(s.text)) for s in examined],
        "question": [s.task.question for s in examined],
        "problem": [s.task.question for s in examined],
        "answer": [s.task.answer for s in examined],
        "solution": [s.task.answer for s in examined],
        "tests": [s.task.tests or None for s in examined],
        "domain": [specimen_domain(rewards, programs=bool(s.task.tests)) for s in examined],
    }
    scores = [checked(reward)(**columns) for reward in rewards]
    return [
        Payment(
            specimen=specimen,
            scores=tuple(column[row] for column in scores),
            total=sum(
                reward.weight * (column[row] or 0.0) for reward, column in zip(rewards, scores, strict=True)
            ),
        )
        for row, specimen in enumerate(examined)
    ]


def overpaid(payments: Sequence[Payment]) -> list[Payment]:
    """Exploits paid like an honest answer to the same question: with the right answer, as much as the least
    paid honest good one; without, more than the best paid honest bad one."""
    found = []
    for payment in payments:
        if payment.specimen.kind != "exploit":
            continue
        same_task = [p for p in payments if p.specimen.task == payment.specimen.task]
        good = min(p.total for p in same_task if p.specimen.kind == "honest good")
        bad = max(p.total for p in same_task if p.specimen.kind == "honest bad")
        if payment.total >= good - 1e-9 or (not payment.specimen.right and payment.total > bad + 1e-9):
            found.append(payment)
    return found


def _recipes(path: Path | None) -> list[tuple[str, dict[str, Any]]]:
    if path is None:
        return [("R1-Zero", R1_ZERO)]
    if not path.exists():
        raise RecipeError(f"{path}: no such recipe file or folder")
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    found = []
    for file in files:
        try:
            recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"{file}: not a YAML file: {error}") from error
        if isinstance(recipe, dict) and recipe.get("rewards"):
            found.append((str(file), recipe))
    if not found:
        raise RecipeError(f"{path}: no recipe there has a `rewards:` list")
    return found


def _print(file: IO[str] | None, name: str, rewards: Sequence[Reward], payments: Sequence[Payment]) -> int:
    """Table and advice; returns the number of exploits that are paid."""
    paid = overpaid(payments)
    table = Table(box=SIMPLE, title=f"who gets paid: {name}")
    table.add_column("completion", no_wrap=True)
    for reward in rewards:
        table.add_column(f"{reward.name} x {reward.weight:g}", justify="right", no_wrap=True)
    table.add_column("total", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for kind, group in groupby(payments, key=lambda payment: payment.specimen.kind):
        for payment in group:
            scores = ["-" if score is None else f"{score:.2f}" for score in payment.scores]
            mark = "PAID" if payment in paid else "" if kind == "exploit" else kind
            table.add_row(payment.specimen.name, *scores, f"{payment.total:.2f}", mark)
        table.add_section()
    needed = 70 + sum(len(reward.name) + 10 for reward in rewards)
    console = Console(file=file, width=max(Console().width, needed))
    console.print(table)
    for payment in paid:
        advice = f"(told apart by: {payment.specimen.caught_by})"
        console.print(f"paid like an honest answer: {payment.specimen.name} {advice}")
    count = sum(payment.specimen.kind == "exploit" for payment in payments)
    console.print(f"{name}: {len(paid)} of {count} exploits are paid like an honest answer")
    return len(paid)
