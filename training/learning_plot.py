"""The curves of a GRPO run as people look at them: plots/learning.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.store import atomic_path

# Colours of Okabe and Ito (2008), told apart by every kind of colour vision.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#999999"
_SMOOTHED_STEPS = 10
_FONT_SIZE = 8


def draw_learning(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw what was logged, over steps: right answers and reward, groups, tokens, entropy and KL.

    Pale lines are single steps, full ones means over the last ten.
    """
    from matplotlib.figure import Figure

    steps = np.array([step["step"] for step in history])
    figure = Figure(figsize=(8, 5), layout="constrained")
    (right, groups), (tokens, entropy) = figure.subplots(2, 2, sharex=True)
    _line(right, steps, _series(history, "rollouts/right"), _BLUE, "right answers")
    _line(right, steps, _series(history, "rollouts/formatted"), _GREEN, "formatted")
    _line(right, steps, _series(history, "rollouts/truncated"), _ORANGE, "cut off")
    right.set(ylim=(0, 1), title="share of completions")
    shares = [_series(history, f"groups/{name}") for name in ("all_right", "all_wrong")]
    mixed = 1 - np.nansum(shares, axis=0)
    groups.stackplot(
        steps,
        np.nan_to_num([shares[0], mixed, shares[1]]),
        labels=["all right", "mixed", "all wrong"],
        colors=[_BLUE, _GREY, _ORANGE],
        alpha=0.6,
    )
    groups.set(ylim=(0, 1), title="groups")
    _line(tokens, steps, _series(history, "rollouts/length_right"), _BLUE, "right answers")
    _line(tokens, steps, _series(history, "rollouts/length_wrong"), _ORANGE, "wrong answers")
    tokens.set(title="tokens of a completion", xlabel="step")
    _line(entropy, steps, _series(history, "entropy"), _BLUE, "entropy")
    if any(step.get("kl") is not None for step in history):
        _line(entropy, steps, _series(history, "kl"), _ORANGE, "KL to the reference")
    entropy.set(title="nats a token", xlabel="step")
    for axes in (right, groups, tokens, entropy):
        axes.tick_params(labelsize=_FONT_SIZE)
        axes.title.set_fontsize(_FONT_SIZE + 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=_FONT_SIZE, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _series(history: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    values = [step.get(name) for step in history]
    return np.array([np.nan if value is None else value for value in values], float)


def _line(axes: Any, steps: np.ndarray, values: np.ndarray, colour: str, label: str) -> None:
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(steps, _smoothed(values), color=colour, linewidth=1.6, label=label)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Mean over the last steps that have a value; NaN where none has."""
    known = ~np.isnan(values)
    sums, counts = np.cumsum(np.where(known, values, 0)), np.cumsum(known)
    window = _SMOOTHED_STEPS
    sums[window:], counts[window:] = sums[window:] - sums[:-window], counts[window:] - counts[:-window]
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
