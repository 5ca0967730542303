"""A page in the making: the runs that it is of, the pictures that it has, and what could not be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.figures import Picture, write_picture
from evaluation.report.effects_section import combined_effects, read_effects
from evaluation.report.folder import FoundStage
from evaluation.report.markup import line

LARGEST_PICTURE_BYTES = 2**19


@dataclass(kw_only=True)
class Draft:
    """What the sections of a page are made from."""

    runs: Mapping[str, Sequence[FoundStage]]
    """Stages by the name of their run; the first run is shown in full."""
    folder: Path
    """Of the page."""
    about: Mapping[str, str]
    """A sentence on each kind of stage."""
    problems: list[tuple[str, str]] = field(default_factory=list)
    """What could not be read: where, and why."""
    drawn: set[str] = field(default_factory=set)
    """Names of the pictures that the page has."""

    def __post_init__(self) -> None:
        for run, stages in self.runs.items():
            self.problems += [(f"{run}/{found.name}", text) for found in stages for text in found.problems]
            self.problems += [] if stages else [(run, "no stage has written anything here")]

    @property
    def name(self) -> str:
        return next(iter(self.runs))

    @property
    def stages(self) -> Sequence[FoundStage]:
        """Of the run that is shown in full."""
        return self.runs[self.name]

    @cached_property
    def effects(self) -> list[dict[str, Any]]:
        """The claims that all runs share, each over the runs that measured it."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for run, stages in self.runs.items():
            with self.trying(run):
                rows[run] = read_effects(stages)
        shared = combined_effects(rows)
        measured = {row["name"] for found in rows.values() for row in found}
        if left_out := sorted(measured - {row["name"] for row in shared}):
            self.problems.append(("claims", f"not measured alike in every run: {', '.join(left_out)}"))
        return shared

    @contextmanager
    def trying(self, where: str) -> Iterator[None]:
        """What cannot be read in here is told, and left out."""
        try:
            yield
        except (OSError, ValueError, pa.ArrowException) as error:
            self.problems.append((where, str(error)))

    def figure(self, picture: Picture, of: str = "", wide: bool = False) -> str:
        """A picture with its caption, also written beside the page; empty where the page has it already.

        Args:
            of: HTML that leads to the stage that it is of.
        """
        if picture.name in self.drawn:
            return ""
        self.drawn.add(picture.name)
        svg = write_picture(picture, self.folder / "figures")
        if len(svg) > LARGEST_PICTURE_BYTES:
            svg = "<p class='quiet'>It is too large for this page.</p>"
        kinds = (("svg", "SVG"), ("png", "PNG"), ("json", "numbers"))
        links = " ".join(f"<a href='figures/{picture.name}.{kind}'>{word}</a>" for kind, word in kinds)
        return f"""<figure id="figure-{picture.name}"{" class=wide" if wide else ""}>{svg}
<figcaption><b>{line(picture.title)}</b> {line(picture.caption, 600)} {of} {links}</figcaption></figure>
"""
