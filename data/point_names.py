"""Names beside the points of a picture, each where it covers least of what is drawn already."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from data.figures import lay_out

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Place = tuple[float, float]
_MOST_BOXES = 100
"""Along a line from point to point."""


def name_points(
    figure: Figure,
    axes: Any,
    names: Sequence[tuple[Place, str, str]],
    lines: Sequence[Sequence[Place]],
    size: float = 7.5,
) -> None:
    """Name every point; to be called when all is drawn and the limits are set.

    Args:
        names: (place, name, colour of the leader) of each point.
        lines: places along each line, error bars and points among them, that names should keep clear of.
        size: of the letters, in points.
    """
    from matplotlib.font_manager import FontProperties

    lay_out(figure)
    renderer, pixel = figure.canvas.get_renderer(), figure.dpi / 72  # type: ignore[attr-defined]
    frame, taken = axes.get_window_extent().extents[None], np.empty((0, 4))
    drawn, font = _drawn(axes, lines, pixel), FontProperties(size=size)
    high = 1.2 * size * pixel
    for place, name, colour in names:
        wide = renderer.get_text_width_height_descent(name, font, ismath=False)[0]
        box, centre = np.array([wide, high]), axes.transData.transform(place)
        offsets, steps = _offsets(box / 2 + 3 * pixel, pixel)
        boxes = np.hstack([centre + offsets - box / 2, centre + offsets + box / 2])
        cost = _covered(boxes, drawn) + 100 * _covered(boxes, taken) + 2 * high * steps
        cost += 100 * (wide * high - _covered(boxes, frame))
        for part in np.linspace(0.2, 0.8, 7):  # of the line from the point to its name
            at = centre + part * offsets
            cost += 10 * _covered(np.hstack([at - pixel, at + pixel]), taken)
        best = int(np.argmin(cost))
        axes.annotate(
            name,
            place,
            xytext=offsets[best] / pixel,
            textcoords="offset points",
            fontsize=size,
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5} if steps[best] else None,
        ).set_in_layout(False)
        taken = np.vstack([taken, boxes[best]])


def _drawn(axes: Any, lines: Sequence[Sequence[Place]], pixel: float) -> np.ndarray:
    """[N, 4] corners in pixels of small boxes that cover the lines and, more so, their points."""
    places = [np.empty((0, 2))]
    for line in lines:
        points = axes.transData.transform(np.array(line, float).reshape(-1, 2))
        places.append(np.repeat(points, 20, axis=0))
        for start, end in pairwise(points):
            count = 1 + int(np.hypot(*(end - start)) / (4 * pixel))
            places.append(np.linspace(start, end, num=min(count, _MOST_BOXES)))
    drawn = np.vstack(places)
    return np.hstack([drawn - 2 * pixel, drawn + 2 * pixel])


def _offsets(reach: np.ndarray, pixel: float) -> tuple[np.ndarray, np.ndarray]:
    """[K, 2] places for the centre of a name around its point, in pixels, and [K] how far out, in steps."""
    angles = np.arange(16) * np.pi / 8
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    around = np.clip(1.3 * around, -1, 1)  # along a box with cut corners
    steps = np.repeat(np.arange(12), len(around))
    return np.tile(around, (12, 1)) * (reach + 10 * pixel * steps[:, None]), steps


def _covered(corners: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Area in square pixels that each of [N, 4] boxes shares with all of [M, 4] boxes."""
    low = np.maximum(corners[:, None, :2], others[None, :, :2])
    high = np.minimum(corners[:, None, 2:], others[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=2).sum(axis=1)
