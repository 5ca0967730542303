"""Trainings as people look at them: any loss, and what a GRPO run learns, over optimizer steps.

Rows are what a trainer logs, as in log_history.json: `step`, `loss`, `eval_loss`, `rollouts/reward`, ...
Where many were logged, pale lines are single steps and full ones running means of up to ten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data.figures import WIDTH_INCHES, Picture, finite, label_ends, logarithmic, thinned
from data.theme_svg import BLUE, GREEN, ORANGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_SMOOTHED, _SMOOTHED_SHARE = 10, 20
"""A running mean is of so many logged steps at most, and of a 20th of them."""
_FEW = 12
"""Points that are marked one by one."""
_PANEL_INCHES = 1.35
_LOG_RANGE = 10
"""Losses that range over more have a logarithmic axis."""

_LINES = "Pale: single logged steps; full: running mean of up to ten."

Rows = Sequence[Mapping[str, Any]]
Curve = dict[str, list[float]]
"""`step`, `value`, and `mean` over the last steps, or `low` and `high` of an area."""

_PANELS: tuple[tuple[str, bool, dict[str, tuple[str, str]]], ...] = (
    ("mean reward of a completion", False, {"rollouts/reward": ("reward", BLUE)}),
    (
        "share of completions, %",
        True,
        {
            "rollouts/right": ("right", BLUE),
            "rollouts/formatted": ("formatted", GREEN),
            "rollouts/truncated": ("cut off", ORANGE),
        },
    ),
    (
        "tokens of a completion",
        False,
        {"rollouts/length_right": ("right", BLUE), "rollouts/length_wrong": ("wrong", ORANGE)},
    ),
    ("entropy, nats a token", False, {"entropy": ("entropy", BLUE)}),
    ("KL to the reference, nats a token", False, {"kl": ("KL", ORANGE)}),
)
_GROUPS = "share of groups, %"


def loss_picture(name: str, rows: Rows, of: str, unit: str) -> Picture | None:
    """Loss in training and on held-out rows; None where none was logged.

    Args:
        of: what was trained, for the words.
        unit: of the loss, such as "nats a token".
    """
    known = {key: _curve(rows, key) for key in ("loss", "eval_loss")}
    curves = {key: curve for key, curve in known.items() if curve["step"]}
    if not curves:
        return None
    styles = {"loss": ("training", BLUE), "eval_loss": ("held out", ORANGE)}
    values = [value for curve in curves.values() for value in curve["value"]]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for key, curve in curves.items():
            _draw_curve(axes, curve, styles[key][1])
        if min(values) > 0 and max(values) > _LOG_RANGE * min(values):
            logarithmic(axes, "y")
        else:
            axes.set_ylim(bottom=min(0.0, *values, 0.0))
        axes.set(xlabel="optimizer step", ylabel=f"loss, {unit}")
        label_ends(figure, {axes: [_end(curve, *styles[key]) for key, curve in curves.items()]})

    shown = " and ".join(styles[key][0] for key in curves)
    return Picture(
        name=name,
        title=f"Loss of {of}",
        caption=f"Loss ({shown}) over optimizer steps. {_LINES}",
        data=curves,
        draw=draw,
        size=(WIDTH_INCHES, 2.6),
    )


def learning_picture(name: str, rows: Rows, of: str = "the policy") -> Picture | None:
    """What a GRPO run learns, a panel below the other; None where nothing of it was logged."""
    panels: dict[str, dict[str, Curve]] = {}
    for title, _, lines in _PANELS:
        curves = {label: _curve(rows, key) for key, (label, _) in lines.items()}
        if curves := {label: curve for label, curve in curves.items() if curve["step"]}:
            panels[title] = curves
    if groups := _groups(rows):
        panels = dict(sorted({**panels, _GROUPS: groups}.items(), key=lambda item: _order(item[0])))
    if not panels:
        return None

    def draw(figure: Figure) -> None:
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False).ravel().tolist()
        ends = {}
        for axes, (title, curves) in zip(grid, panels.items(), strict=True):
            ends[axes] = _draw_groups(axes, curves) if title == _GROUPS else _draw_panel(axes, title, curves)
            axes.set_title(title, fontsize=9, fontweight="normal")
        grid[-1].set_xlabel("optimizer step")
        label_ends(figure, ends)

    return Picture(
        name=name,
        title=f"What {of} learns",
        caption=(
            f"Means over the completions of each optimizer step. {_LINES} Only mixed groups, with right and "
            "wrong completions, have a gradient."
        ),
        data=panels,
        draw=draw,
        size=(WIDTH_INCHES, 0.5 + _PANEL_INCHES * len(panels)),
    )


def _order(title: str) -> float:
    """Groups stand below the shares of completions."""
    return 1.5 if title == _GROUPS else [panel for panel, _, _ in _PANELS].index(title)


def _draw_panel(axes: Any, title: str, curves: Mapping[str, Curve]) -> list[tuple[float, float, str, str]]:
    (is_share, lines), *_ = [(share, lines) for panel, share, lines in _PANELS if panel == title]
    colours = dict(lines.values())
    scale = 100 if is_share else 1
    ends = []
    for label, curve in curves.items():
        scaled = {**curve, **{key: [scale * value for value in curve[key]] for key in ("value", "mean")}}
        _draw_curve(axes, scaled, colours[label])
        ends.append(_end(scaled, label if len(curves) > 1 else "", colours[label]))
    if is_share:
        axes.set_ylim(0, 103)
    return [end for end in ends if end[2]]


def _draw_groups(axes: Any, groups: Mapping[str, Curve]) -> list[tuple[float, float, str, str]]:
    ends = []
    for (label, area), colour in zip(groups.items(), (GREEN, BLUE, ORANGE), strict=True):
        low, high = ([100 * value for value in area[key]] for key in ("low", "high"))
        axes.fill_between(area["step"], low, high, color=colour, alpha=0.45, linewidth=0)
        if len(low) == 1:
            axes.vlines(area["step"], low, high, color=colour, linewidth=6, alpha=0.45)
        ends.append((area["step"][-1], (low[-1] + high[-1]) / 2, label, colour))
    axes.set_ylim(0, 100)
    return ends


def _groups(rows: Rows) -> dict[str, Curve]:
    """Areas of the shares of groups that are all right, mixed and all wrong."""
    found = [
        (step, right, wrong)
        for row in rows
        for step, right, wrong in [[finite(row.get(key)) for key in ("step", *_ALL)]]
        if step is not None and right is not None and wrong is not None
    ]
    if not found:
        return {}
    steps, right, wrong = (list(column) for column in zip(*thinned(found), strict=True))
    mixed = [1 - value for value in wrong]
    edges = {"all right": ([0.0] * len(steps), right), "mixed": (right, mixed)}
    edges["all wrong"] = (mixed, [1.0] * len(steps))
    return {label: {"step": steps, "low": low, "high": high} for label, (low, high) in edges.items()}


_ALL = ("groups/all_right", "groups/all_wrong")


def _curve(rows: Rows, key: str) -> Curve:
    """The logged values of a name, thinned, with their running mean."""
    pairs = [(finite(row.get("step")), finite(row.get(key))) for row in rows]
    known = [(step, value) for step, value in pairs if step is not None and value is not None]
    means = smoothed([value for _, value in known])
    points = thinned([(step, value, mean) for (step, value), mean in zip(known, means, strict=True)])
    step, value, mean = (list(column) for column in zip(*points, strict=True)) if points else ([], [], [])
    return {"step": step, "value": value, "mean": mean}


def smoothed(values: Sequence[float]) -> list[float]:
    """Mean of each value and of those before it that its window reaches."""
    window = _window(len(values))
    sums, counts = np.cumsum(np.asarray(values, float)), np.minimum(np.arange(1, len(values) + 1), window)
    sums[window:] -= sums[:-window].copy()
    return (sums / counts).tolist()


def _window(count: int) -> int:
    return max(1, min(_MOST_SMOOTHED, count // _SMOOTHED_SHARE))


def _draw_curve(axes: Any, curve: Curve, colour: str) -> None:
    if curve["mean"] != curve["value"]:
        axes.plot(curve["step"], curve["value"], color=colour, alpha=0.3, linewidth=0.8)
    marker = "o" if len(curve["step"]) <= _FEW else ""
    axes.plot(curve["step"], curve["mean"], color=colour, marker=marker, markersize=3.5)


def _end(curve: Curve, label: str, colour: str) -> tuple[float, float, str, str]:
    return curve["step"][-1], curve["mean"][-1], label, colour
