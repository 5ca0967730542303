"""Reading the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.store import read_json
from tests.evaluation.report.page_elements import Element, Reader
from tests.evaluation.report.run_folders import write_json

VOID = {"meta", "br"}
LARGEST_BYTES = 20 * 2**20


def read(path: Path) -> Element:
    """The page, which must be well formed and small enough."""
    assert path.stat().st_size < LARGEST_BYTES
    return Reader(path.read_text(encoding="utf-8"), VOID).root


def section(root: Element, name: str) -> Element:
    (found,) = [part for part in root.all("section") if part.attributes.get("id") == name]
    return found


def problems(root: Element) -> list[str]:
    return [item.text for part in root.all("section", "missing") for item in part.all("li")]


def edit(path: Path, **values: Any) -> None:
    write_json(path, {**read_json(path), **values})
