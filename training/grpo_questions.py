"""What a GRPO run trains on: problems that can be asked and that the rewards can judge, as questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data.did_you_mean import did_you_mean
from data.prompts import Prompter, with_suffix
from data.schema import Problem, Rejected, problem_row, rejected
from inference.draw import render_prompts
from rewards.registry import Reward
from rewards.texts import FROM_TRAINER
from training.questions import Question


def usable(
    problems: Sequence[Problem],
    prompter: Prompter,
    rewards: Sequence[Reward],
    *,
    longest_prompt: int,
    suffix: str = "",
) -> tuple[list[Question], list[Rejected]]:
    """What can be trained on, and the other problems with the reason: no prompt of at most `longest_prompt`
    tokens, no reward for its domain, or a reward for it that cannot judge it."""
    prompts, bad = render_prompts(problems, prompter, longest_prompt, suffix)
    kept = [problem for problem in problems if problem.id in prompts]
    names = dict.fromkeys(key for problem in kept for key in columns(problem))
    rows = [{**names, **columns(problem)} for problem in kept]
    faults: dict[str, tuple[str, str]] = {}
    for problem in kept:
        if not any(reward.applies_to(problem.domain) for reward in rewards):
            why = f"no entry of `rewards:` applies to the domain {problem.domain!r}; add one that does"
            faults[problem.id] = ("no_reward", why)
    for reward in rewards:
        judged = [(p, row) for p, row in zip(kept, rows, strict=True) if reward.applies_to(p.domain)]
        find = getattr(reward.function, "row_faults", lambda rows: [""] * len(rows))
        for (problem, _), fault in zip(judged, find([row for _, row in judged]), strict=True):
            if fault:
                faults.setdefault(problem.id, ("unjudgeable", f"{reward.name}: {fault}"))
    bad += [rejected(problem_row(p), *faults[p.id]) for p in kept if p.id in faults]
    questions = []
    for problem, row in zip(kept, rows, strict=True):
        if problem.id not in faults:
            prompt, asked = prompts[problem.id], with_suffix(problem.question, suffix)
            shown = prompter.messages(asked) if prompter.is_chat else prompt.text
            questions.append(Question(problem=problem, prompt=prompt, columns={**row, "prompt": shown}))
    return questions, bad


def check_domains(problems: Sequence[Problem], rewards: Sequence[Reward]) -> None:
    """Refuse rewards for (or not for) a domain that no question has.

    Raises:
        ValueError: names the reward, and the nearest domain.
    """
    present = sorted({problem.domain for problem in problems if problem.domain})
    fix = "give them one where they are collected (`domain:` of a source), or by stage label_domains"
    named = [
        (reward.name, key, domain)
        for reward in rewards
        for key in ("domains", "except_domains")
        for domain in getattr(reward, key)
    ]
    for name, key, domain in named:
        if problems and domain and domain not in present:
            hint = did_you_mean(domain, present) if present else f"none has any: {fix}"
            raise ValueError(f"rewards: {name}: {key}: no question has the domain {domain!r}; {hint}")


def columns(problem: Problem) -> dict[str, Any]:
    """The columns of a problem for rewards: its fields, and the keys of its metadata."""
    extra = {key: value for key, value in problem.metadata.items() if key not in FROM_TRAINER}
    return {**extra, **problem_row(problem)}
