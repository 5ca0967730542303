"""A line for each logged step of a GRPO run that people can read; the whole of it is in log_history.json."""

from __future__ import annotations

from typing import Any

from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments


class StepLines(ProgressCallback):
    """The trainer's progress bar, with `step_line` above it."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs:
            super().on_log(args, state, control, logs=logs, **kwargs)
        elif state.is_world_process_zero and self.training_bar is not None:
            self.training_bar.write(step_line(state.global_step, logs))


def step_line(step: int, logs: dict[str, Any]) -> str:
    """What matters of a step; a step on completions of an earlier one has no rollouts of its own."""
    parts = [
        f"step {step}",
        *(_rollouts(logs) if "rollouts/reward" in logs else [f"loss {_number(logs['loss'], 4)}"]),
        *(f"{key} {_number(logs[key], 3)}" for key in ("entropy", "kl", "grad_norm") if key in logs),
        f"{logs['step_time']:.2f} s" if logs.get("step_time") is not None else "",
    ]
    return "  ".join(part for part in parts if part)


def _rollouts(logs: dict[str, Any]) -> list[str]:
    rewards = [
        f"{key.split('/')[1]} {value:.2f}"
        for key, value in logs.items()
        if key.startswith("rewards/") and key.endswith("/mean") and value is not None
    ]
    lengths = [
        f"{name} {logs[f'rollouts/length_{name}']:.0f}"
        for name in ("right", "wrong")
        if logs.get(f"rollouts/length_{name}") is not None
    ]
    drawn = int(logs["groups/drawn"])
    return [
        f"reward {_number(logs['rollouts/reward'])} ({', '.join(rewards)})",
        f"right {_number(logs['rollouts/right'])}",
        f"useful groups {round(logs['groups/useful'] * drawn)}/{drawn}",
        f"tokens {_number(logs['rollouts/length'], 0)} ({', '.join(lengths)})",
        f"cut off {_number(logs['rollouts/truncated'])}",
    ]


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
