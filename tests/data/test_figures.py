"""Files of a picture, and the parts that pictures are made of."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from data.figures import (
    MOST_POINTS,
    Picture,
    finite,
    label_ends,
    logarithmic,
    numbers,
    short,
    thinned,
    write_picture,
)
from data.theme_svg import BLUE, COLOURS, DARK_CSS, GROUND, LIGHT_CSS, ORANGE, PICTURE_CSS

HOSTILE = "</title><script>alert('fill: #0072b2')</script> $x_{ &amp; \x1b\ud800"


def draw(figure: Figure) -> None:
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=BLUE, marker="o", markerfacecolor=GROUND, label=short(HOSTILE, 99))
    axes.fill_between([0, 1], [0, 0], [1, 2], color=ORANGE, alpha=0.2, linewidth=0)
    axes.set(xlabel="step", ylabel="loss")
    label_ends(figure, {axes: [(1, 1, "here", BLUE), (1, 1.01, "there", ORANGE)]})


def picture(name: str = "a-picture", **fields: Any) -> Picture:
    made: dict[str, Any] = {
        "title": HOSTILE,
        "caption": f"drawn: {HOSTILE}",
        "data": {"y": [0.5]},
        "draw": draw,
    }
    return Picture(name=name, **made | fields)


def test_files(tmp_path: Path) -> None:
    data = {"y": [1.5, float("nan"), float("inf")], "name": HOSTILE, "of": {"a": (True, None)}}
    write_picture(picture(data=data), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"a-picture.{kind}" for kind in ("json", "png", "svg")
    ]
    read = json.loads((tmp_path / "a-picture.json").read_text())
    assert read == {"y": [1.5, None, None], "name": HOSTILE.replace("\ud800", "?"), "of": {"a": [True, None]}}
    pixels = imread(tmp_path / "a-picture.png")
    assert pixels.shape[:2] == (480, 720)
    assert pixels[0, 0, :3].tolist() == [1, 1, 1]


def test_svg_is_one_picture_among_others(tmp_path: Path) -> None:
    """Ids are the picture's own, every reference leads somewhere, and what is drawn twice is the same."""
    inline = {name: write_picture(picture(name), tmp_path) for name in ("one", "two")}
    again = write_picture(picture("one"), tmp_path / "again")
    assert again == inline["one"]
    assert (tmp_path / "again" / "one.svg").read_bytes() == (tmp_path / "one.svg").read_bytes()
    ids = {}
    for name, svg in inline.items():
        root = ElementTree.fromstring(svg)
        ids[name] = {element.get("id", "") for element in root.iter()} - {""}
        assert all(each.startswith(f"{name}-") for each in ids[name])
        pointed = {*re.findall(r"url\(#([^)]+)\)", svg), *re.findall(r'href="#([^"]+)"', svg)}
        assert len(pointed) > 3
        assert pointed <= ids[name]
        assert root.get("aria-labelledby") == f"{name}-title {name}-desc"
    assert not ids["one"] & ids["two"]


def test_svg_follows_the_theme(tmp_path: Path) -> None:
    """Every colour is a variable that both themes have, or the page's ink."""
    inline = write_picture(picture(), tmp_path)
    styles = ";".join(re.findall(r'style="([^"]*)"', inline))
    colours = set(re.findall(r"(?:fill|stroke): ([^;]+)", styles))
    assert {"currentColor", f"var(--c0,{COLOURS[0]})", f"var(--ground,{GROUND})"} <= colours
    variables = {colour for colour in colours if colour not in ("currentColor", "none")}
    assert all(re.fullmatch(r"var\(--\w+,#[0-9a-f]{6}\)", colour) for colour in variables), variables
    for name in {re.findall(r"--(\w+)", colour)[0] for colour in variables} | {"ink"}:
        assert all(f"--{name}:#" in css for css in (LIGHT_CSS, DARK_CSS, PICTURE_CSS))
    alone = (tmp_path / "a-picture.svg").read_text()
    assert LIGHT_CSS in alone
    assert DARK_CSS in alone
    assert "width=" in alone.split(">")[0]
    assert "font-family: " not in styles


def test_text_stays_text(tmp_path: Path) -> None:
    inline = write_picture(picture(), tmp_path)
    assert "<script" not in inline
    for svg in (inline, (tmp_path / "a-picture.svg").read_text()):
        root = ElementTree.fromstring(svg)
        texts = ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("title")]
        assert texts == ["</title><script>alert('fill: #0072b2')</script> $x_{ &amp;"]
    assert "here" in inline


def test_names_of_pictures() -> None:
    with pytest.raises(ValueError, match="'a b' may only have a-z"):
        picture("a b")


def test_labels_keep_apart_and_in_order() -> None:
    figure = Figure(figsize=(4.8, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 100))
    heights = [99.0, 98.5, 50.0, 97.0, 51.0, 0.0, 1.0]
    label_ends(figure, {axes: [(1, y, f"{y}", BLUE) for y in heights]})
    places = {float(text.get_text()): text.xyann[1] for text in axes.texts}  # type: ignore[attr-defined]
    found = [places[height] for height in sorted(heights)]
    assert min(b - a for a, b in pairwise(found)) > 0.05
    assert found[0] >= 0
    assert found[-1] <= 1
    assert abs(places[50.0] - 0.5) < 0.1


def test_logarithmic_axes_have_plain_numbers(tmp_path: Path) -> None:
    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot([1, 20_000], [0.04, 5])
        logarithmic(axes, "x", narrow=False)
        logarithmic(axes, "y")

    svg = write_picture(picture(draw=draw, title="t", caption="c"), tmp_path)
    assert {"1", "1k", "10k", "0.05", "0.2", "5"} <= set(re.findall(r">([^<]+)</text>", svg))
    assert "$" not in svg


def test_thinning_keeps_both_ends() -> None:
    assert thinned([1, 2, 3]) == [1, 2, 3]
    kept = thinned(range(1_000_000))
    assert (len(kept), kept[0], kept[-1]) == (MOST_POINTS, 0, 999_999)
    assert kept == sorted(set(kept))


def test_numbers_are_finite() -> None:
    assert numbers({"a": 1, "b": 2.5}, "a", "b") == (1.0, 2.5)
    for odd in (None, "1", True, float("nan"), float("inf"), 10**400, [1]):
        assert finite(odd) is None
        with pytest.raises(ValueError, match=r"^b: .* is no finite number$"):
            numbers({"a": 1, "b": odd}, "a", "b")


def test_names_are_short_and_plain() -> None:
    assert short("a\tb\n\x00c") == "a b c"
    assert short("x" * 30) == "x" * 23 + "…"


def test_import_is_light() -> None:
    code = "import sys, data.curves, data.point_names; print({'torch', 'matplotlib'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
