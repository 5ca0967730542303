"""The palette of all pictures, and SVGs that follow their page into the dark.

matplotlib draws with the light colours; in its SVG each becomes a CSS variable (`var(--c0)`), the ink
`currentColor`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours of Okabe and Ito (2008), told apart by every kind of colour vision; grey stands for their black,
# which is the ink, and yellow is too pale for lines.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#6b6b6b")
BLUE, ORANGE, GREEN, PINK, SKY, AMBER, GREY = COLOURS
INK, SOFT, GRID, GROUND = "#1f2328", "#59636e", "#dfe3e8", "#ffffff"
_LIGHT = {f"c{i}": colour for i, colour in enumerate(COLOURS)} | {
    "ink": INK,
    "soft": SOFT,
    "grid": GRID,
    "ground": GROUND,
}
_DARK = {
    "c0": "#4ea3e0",
    "c1": "#ff8c42",
    "c2": "#2cc295",
    "c3": "#e3a3c6",
    "c4": "#9bd8fb",
    "c5": "#f2bd4a",
    "c6": "#a3a3a3",
    "ink": "#e6edf3",
    "soft": "#9aa5b1",
    "grid": "#343b44",
    "ground": "#12161c",
}
LIGHT_CSS, DARK_CSS = (
    ";".join(f"--{name}:{colour}" for name, colour in theme.items()) for theme in (_LIGHT, _DARK)
)
"""Declarations of every variable that a picture uses, for a page's `:root`."""
PICTURE_CSS = (
    f":root{{{LIGHT_CSS}}}@media (prefers-color-scheme: dark){{:root{{{DARK_CSS}}}}}"
    ".picture{color:var(--ink);width:100%;max-width:40rem;height:auto;display:block}"
)
"""What a page with inline pictures needs, at least."""

_NAMESPACE = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_VARIABLES = {
    colour: "currentColor" if name == "ink" else f"var(--{name},{colour})" for name, colour in _LIGHT.items()
}
_ALONE = (
    f"svg{{color-scheme:light dark;color:var(--ink);font-family:system-ui,sans-serif;{LIGHT_CSS}}}"
    f"@media (prefers-color-scheme:dark){{svg{{{DARK_CSS}}}}}"
)


def themed_svg(figure: Figure, name: str, title: str, caption: str) -> tuple[str, str]:
    """A figure as it stands in a page with `PICTURE_CSS`, and as a file of its own.

    Args:
        name: begins all ids; two in one page must differ.
        title, caption: what is read aloud.
    """
    written = io.BytesIO()
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(written.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("}metadata") or child.tag == f"{_NAMESPACE}style":
                parent.remove(child)
    used = {name for element in root.iter() for name in _references(element)}
    for element in root.iter():
        element.tag = element.tag.removeprefix(_NAMESPACE)
        element.text, element.tail = (text and text.strip() and text for text in (element.text, element.tail))
        element.attrib.update(_attributes(element.attrib, name, used))
        for gone in (_XLINK, *(["id"] if not element.get("id") else [])):
            element.attrib.pop(gone, None)
    for place, (tag, text) in enumerate((("title", title), ("desc", caption))):
        described = ElementTree.Element(tag, id=f"{name}-{tag}")
        described.text = text
        root.insert(place, described)
    labels = {
        "xmlns": _NAMESPACE[1:-1],
        "class": "picture",
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
    }
    size = {key: root.attrib.pop(key) for key in ("width", "height")}
    root.attrib = {**labels, **root.attrib}
    inline = ElementTree.tostring(root, encoding="unicode")
    style = ElementTree.Element("style")
    style.text = _ALONE
    root.insert(2, style)
    root.attrib.update(size)
    return inline, ElementTree.tostring(root, encoding="unicode") + "\n"


def _references(element: ElementTree.Element) -> list[str]:
    """Ids that an element points to."""
    found = re.findall(r"url\(#([^)]+)\)", " ".join(element.attrib.values()))
    return [*found, *([element.attrib[_XLINK][1:]] if _XLINK in element.attrib else [])]


def _attributes(given: Mapping[str, str], name: str, used: set[str]) -> dict[str, str]:
    """With ids of this picture only, the page's fonts, and variables instead of colours."""
    made = {key: re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", value) for key, value in given.items()}
    if _XLINK in given:
        made["href"] = f"#{name}-{given[_XLINK][1:]}"
    for key in ("d", "x", "y", "transform"):
        if key in made:
            made[key] = re.sub(r"(\.\d\d)\d+", r"\1", made[key])  # hundredths of a point are fine enough
    if "id" in given:
        made["id"] = f"{name}-{given['id']}" if given["id"] in used else ""
    if "style" in given:
        style = re.sub(r"#[0-9a-f]{6}\b", lambda found: _VARIABLES.get(found[0], found[0]), made["style"])
        made["style"] = re.sub(r"font-family: [^;]*(; |$)", "", style)
    return made
