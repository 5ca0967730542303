"""The table and the curves, of summaries made by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Annotation, Text
from rich.console import Console

from data.figures import write_png
from evaluation.scaling import Estimate, MethodSummary, Point
from evaluation.scaling_plot import method_markdown, method_rows, method_table, scaling_picture


def summary(method: str, points: list[tuple[str, float, float]], **fields: Any) -> MethodSummary:
    """A method with these (name, thinking tokens, accuracy)."""
    made = [
        Point(
            name=name,
            thinking_tokens=Estimate(tokens, 0.9 * tokens, 1.1 * tokens),
            accuracy=Estimate(accuracy, max(accuracy - 0.1, 0), min(accuracy + 0.1, 1)),
        )
        for name, tokens, accuracy in points
    ]
    values: dict[str, Any] = {
        "method": method,
        "settings": len(points),
        "bounded_settings": len(points),
        "control": Estimate(0.4, 0.2, 0.6),
        "control_per_completion": Estimate(0.5, 0.4, 0.625),
        "points_per_doubling": Estimate(-24.04, -40.06, 3),
        "points_per_1000_tokens": Estimate(-4.76, -8, 0.5),
        "performance": max((point.accuracy for point in made), key=lambda accuracy: accuracy.value),
        "points": made,
        "notes": [],
    }
    return MethodSummary(**values | fields)


FORCING = summary("budget forcing", [("512", 500, 0.2), ("2,048", 2000, 0.4), ("Wait x 2", 7000, 0.5)])
ONE = summary(
    "a | b [bold]",
    [("short", 900, 0.3)],
    control=None,
    control_per_completion=None,
    points_per_doubling=None,
    points_per_1000_tokens=None,
    notes=["one setting: there is no slope"],
)


def test_markdown() -> None:
    lines = method_markdown([FORCING, ONE]).splitlines()
    assert lines[0].startswith("| method | control | per completion | per doubling | per 1,000 tokens |")
    assert lines[2] == (
        "| budget forcing | 40 [20, 60] | 50 [40, 62] | -24.0 [-40.1, 3.0] | -4.8 [-8.0, 0.5] "
        "| 50.0 [40.0, 60.0] | 3 |"
    )
    assert lines[3] == r"| a \| b [bold] | - | - | - | - | 30.0 [20.0, 40.0] | 1 |"
    assert lines[-1] == "- a | b [bold]: one setting: there is no slope."


@pytest.mark.parametrize("width", [80, 160])
def test_table_shows_every_word(width: int) -> None:
    console = Console(width=width, record=True, file=StringIO())
    console.print(method_table([FORCING, ONE], title="math [all]"))
    shown = console.export_text()
    words = ["[all]", "performance", "completion", "-24.0", "[-40.1,", "3.0]", "[bold]", "no slope"]
    assert [word for word in words if word not in shown] == []
    assert "…" not in shown


def test_rows_are_json() -> None:
    rows = json.loads(json.dumps(method_rows([FORCING, ONE]), allow_nan=False))
    assert rows[0]["points"][1]["thinking_tokens"] == {"value": 2000, "low": 1800, "high": 2200}
    assert rows[0]["points_per_doubling"]["value"] == -24.04
    assert rows[1]["control"] is None


def drawn(summaries: list[MethodSummary]) -> Figure:
    figure = Figure(layout="constrained", figsize=(4.8, 4.2), dpi=150)
    FigureCanvasAgg(figure)
    scaling_picture("scaling", method_rows(summaries), "chains").draw(figure)
    return figure


def test_png_is_written_whole(tmp_path: Path) -> None:
    write_png(scaling_picture("scaling", method_rows([FORCING, ONE]), "$not math"), tmp_path / "scaling.png")
    assert imread(tmp_path / "scaling.png").shape[:2] == (630, 720)
    assert [path.name for path in tmp_path.iterdir()] == ["scaling.png"]


@pytest.mark.parametrize(
    ("tokens", "scale"), [((100, 801), "log"), ((100, 800), "linear"), ((0, 5000), "linear")]
)
def test_the_axis_doubles_over_a_wide_range(tokens: tuple[int, int], scale: str) -> None:
    figure = drawn([summary("m", [(str(count), count, 0.5) for count in tokens])])
    assert figure.axes[0].get_xscale() == scale


def test_lines_join_settings_in_order_of_tokens() -> None:
    figure = drawn([summary("m", [("a", 300, 0.1), ("b", 100, 0.9), ("c", 200, 0.4)])])
    line = figure.axes[0].lines[0]
    assert list(np.asarray(line.get_xdata())) == [100, 200, 300]
    assert list(np.asarray(line.get_ydata())) == pytest.approx([90, 40, 10])


def names_overlap(figure: Any) -> float:
    """Largest share of a name that another name, or the outside of the axes, takes."""
    figure.draw_without_rendering()
    renderer, axes = figure.canvas.get_renderer(), figure.axes[0]
    names = [child for child in axes.get_children() if isinstance(child, Annotation)]
    boxes = [Text.get_window_extent(name, renderer) for name in names]
    frame = axes.get_window_extent()

    def shared(a: Any, b: Any) -> float:
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        high = min(a.y1, b.y1) - max(a.y0, b.y0)
        return max(wide, 0) * max(high, 0) / (a.width * a.height)

    assert all(shared(box, frame) > 0.999 for box in boxes)
    return max((shared(a, b) for a, b in combinations(boxes, 2)), default=0)


def test_names_keep_clear_of_each_other() -> None:
    assert names_overlap(drawn([FORCING, ONE])) == 0
    crowd = [
        summary(
            f"m{k}", [(f"{2**i:,}", 4000 + 60 * i + 9 * k, 0.3 + 0.02 * i + 0.01 * k) for i in range(8, 14)]
        )
        for k in range(3)
    ]
    wide = summary("wide", [("512", 400, 0.0), ("65,536", 60_000, 1.0)])
    assert names_overlap(drawn([*crowd, wide])) == 0


def test_long_names_stay_inside() -> None:
    name = "a setting with a name that says much more than anybody wants to read in a plot"
    long: list[tuple[str, float, float]] = [(f"{name} {i}", 100.0 * 2**i, 0.5 * i) for i in range(3)]
    assert names_overlap(drawn([summary("m", long)])) == 0


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        scaling_picture("scaling", [], "chains")


def test_import_is_light() -> None:
    code = (
        "import sys, evaluation.scaling_plot; print({'torch', 'matplotlib', 'rich.table'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
