"""Known ways in which RL goes wrong, seen in the metrics of the last steps, each with advice.

The rules read the trainer's own log history, so a resumed run goes on where it was.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.watch import mean

logger = logging.getLogger(__name__)

History = Sequence[dict[str, Any]]
"""Logged steps, oldest first."""

COLLAPSE_WINDOW = 10
"""Logged steps whose mean reward is compared with the best such mean before."""


class TrainingStoppedError(ValueError):
    """Training was ended on purpose; the message says why and what to go on from."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A failure: when it holds for each of the last steps, the advice is given."""

    name: str
    holds: Callable[[dict[str, Any], dict[str, Any]], bool]
    """Of one logged step, and of the means over the first steps of the run."""
    advice: str
    broken: bool = False
    """Whether a checkpoint made meanwhile is not one to go back to."""


def _value(step: dict[str, Any], name: str) -> float:
    value = step.get(name)
    return math.nan if value is None else float(value)


def _is(name: str, low: float = -math.inf, high: float = math.inf) -> Callable[[dict, dict], bool]:
    """Whether low <= metric <= high; never for a metric that is not there."""
    return lambda step, _: low <= _value(step, name) <= high


def _against_start(name: str, low: float = -math.inf, high: float = math.inf) -> Callable[[dict, dict], bool]:
    """Whether the metric is between so many times what it was in the first steps."""
    return lambda step, start: low <= _value(step, name) / (_value(start, name) or math.nan) <= high


def _all(*conditions: Callable[[dict, dict], bool]) -> Callable[[dict, dict], bool]:
    return lambda step, start: all(condition(step, start) for condition in conditions)


RULES = (
    Rule(
        name="no_reward",
        holds=_all(_is("rollouts/reward", -0.0, 0.0), _is("groups/useful", high=0.0)),
        advice="every reward is 0, so nothing can be learned. Read the completions below: where the "
        "answer is there and `extractor saw` is empty, prompt_style and thinking_format do not fit what "
        "the model writes; where it is not, take easier questions or a stronger model",
    ),
    Rule(
        name="all_wrong",
        holds=_is("groups/all_wrong", low=0.9),
        advice="in nine groups of ten no completion is right: take easier questions, more "
        "num_generations, or curriculum: pass_rate",
    ),
    Rule(
        name="all_right",
        holds=_is("groups/all_right", low=0.9),
        advice="in nine groups of ten all completions are right: take harder questions, curriculum: "
        "pass_rate, or stop here",
    ),
    Rule(
        name="format_only",
        holds=_all(_is("rollouts/formatted_wrong", low=0.8), _is("rollouts/right", high=0.05)),
        advice="completions have the format and no right answer: the model is paid for the form alone. Lower "
        "the format reward's weight, or take easier questions",
    ),
    Rule(
        name="truncated",
        holds=_is("rollouts/truncated", low=0.5),
        advice="half of the completions or more never end: raise max_completion_length, add the reward "
        "`overlong`, or lower the learning rate if they ended before",
    ),
    Rule(
        name="shrinking",
        holds=_all(_against_start("rollouts/length", high=0.3), _against_start("rollouts/right", high=1.2)),
        advice="completions have become short and no better: the model guesses. Look for a reward that "
        "pays for brevity or for the form alone",
    ),
    Rule(
        name="repeated_answer",
        holds=_is("rollouts/repeated_answer", low=0.5),
        advice="half of the completions give one and the same wrong answer, whatever the question: lower the "
        "learning rate, and look for golds that are mostly alike",
    ),
    Rule(
        name="language",
        holds=_all(_is("rollouts/language", high=0.8), _against_start("rollouts/language", high=0.85)),
        advice="the thinking leaves the language that it was in: add the reward `language`",
    ),
    Rule(
        name="long_wrong",
        holds=_all(
            lambda step, _: _value(step, "rollouts/length_wrong") > 2 * _value(step, "rollouts/length_right"),
            _against_start("rollouts/length_wrong", low=1.5),
        ),
        advice="wrong answers grow long: loss_type grpo divides by the length and so punishes long wrong "
        "answers less; use dr_grpo or dapo, or the reward `overlong`",
    ),
    Rule(
        name="entropy_collapse",
        holds=_all(_against_start("entropy", high=0.1), _is("groups/useful", high=0.25)),
        advice="the policy hardly explores any more: raise epsilon_high (DAPO's clip-higher: 0.28), set "
        "entropy_coef, or lower the learning rate",
    ),
    Rule(
        name="entropy_explosion",
        holds=_all(_against_start("entropy", low=3.0), _is("entropy", low=1.0)),
        advice="the policy dissolves into noise: lower the learning rate, or set beta for a KL penalty",
        broken=True,
    ),
    Rule(
        name="kl",
        holds=_is("kl", low=1.0),
        advice="the policy is far from the reference (KL above 1 nat a token): lower the learning rate or "
        "raise beta; with sync_ref_model the reference follows",
    ),
    Rule(
        name="clipped",
        holds=_is("clip_ratio/region_mean", low=0.3),
        advice="three tokens of ten are clipped: completions are too old for the policy. Lower the "
        "learning rate, num_iterations or steps_per_generation",
    ),
)


def has_collapsed(history: History) -> bool:
    """Whether the reward has fallen, by COLLAPSE_WINDOW steps."""
    return len(history) >= 2 * COLLAPSE_WINDOW and has_fallen(history, COLLAPSE_WINDOW)


def has_fallen(history: History, steps: int) -> bool:
    """Whether the mean reward of the last steps is less than half of the best over as many steps before."""
    if len(history) <= steps:
        return False
    rewards = np.nan_to_num([_value(step, "rollouts/reward") for step in history])
    means = np.convolve(rewards, np.ones(steps) / steps, mode="valid")
    best = float(means[:-1].max())
    return best > 0 and float(means[-1]) < 0.5 * best


def active(history: History, patience: int) -> list[Rule]:
    """The rules that hold for each of the last `patience` steps."""
    if len(history) < patience:
        return []
    metrics = {key for step in history[:patience] for key in step}
    start = {
        name: mean(_value(step, name) for step in history[:patience] if _is_number(step.get(name)))
        for name in metrics
    }
    return [rule for rule in RULES if all(rule.holds(step, start) for step in history[-patience:])]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


class Alarms(TrainerCallback):
    """Warns once when a failure begins; stops on collapse where asked; keeps the last good checkpoint.

    Args:
        examples: texts of a few completions of the last step, for the rule no_reward.
    """

    def __init__(self, *, patience: int, stop_on_collapse: bool, examples: Callable[[], str]) -> None:
        self.patience = patience
        self.stop_on_collapse = stop_on_collapse
        self.examples = examples
        self.seen: dict[str, int] = {}
        """Each failure with the step at which it was first seen."""
        self.doubtful: int | None = None
        """Step of the newest checkpoint, until the steps after it have shown that it is good."""

    def resume(self, step: int, seen: dict[str, int]) -> None:
        """Go on from the checkpoint of this step, before which so much was seen."""
        self.doubtful, self.seen = step, seen

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if "rollouts/reward" not in (logs or {}):
            return
        history = _steps(state)
        if self.doubtful is not None and state.global_step >= self.doubtful + self.patience:
            self._promote(args, state)
        before = {rule.name for rule in active(history[:-1], self.patience)}
        for rule in active(history, self.patience):
            if rule.name not in before:
                more = f"\n{self.examples()}" if rule.name == "no_reward" else ""
                self._warn(state, rule.name, rule.advice + more)
        if has_collapsed(history) and not has_collapsed(history[:-1]):
            text = (
                "the reward has fallen below half of its best; lower the learning rate, set beta, or go "
                f"on from {state.best_model_checkpoint or 'an earlier checkpoint'}"
            )
            self._warn(state, "collapse", text)
            if self.stop_on_collapse:
                raise TrainingStoppedError(f"step {state.global_step}: {text}")

    def _warn(self, state: TrainerState, name: str, text: str) -> None:
        self.seen.setdefault(name, state.global_step)
        if state.is_world_process_zero:
            logger.warning("step %d: %s: %s", state.global_step, name, text)
            _wandb_alert(f"step {state.global_step}: {name}", text)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._promote(args, state)  # the one before
        self.doubtful = state.global_step

    def _promote(self, args: TrainingArguments, state: TrainerState) -> None:
        """The newest checkpoint is good when the steps after it are: then the trainer never deletes it."""
        history, saved = _steps(state), self.doubtful
        if saved is None or args.metric_for_best_model:
            return
        after = sum(step["step"] > saved for step in history)
        fallen = after and (has_fallen(history, after) or has_collapsed(history))
        broken = any(rule.broken for rule in active(history, self.patience))
        if after and not fallen and not broken:
            state.best_model_checkpoint = str(Path(args.output_dir or "") / f"checkpoint-{saved}")
            self.doubtful = None


def _steps(state: TrainerState) -> History:
    return [step for step in state.log_history if "rollouts/reward" in step]


def _wandb_alert(title: str, text: str) -> None:
    import sys

    wandb = sys.modules.get("wandb")  # imported by the trainer where `report_to` names it
    if wandb is not None and getattr(wandb, "run", None) is not None:
        wandb.alert(title=title, text=text)
