"""The report of a run: a page that opens from a disk with no network, with its figures beside it.

It is made of whatever a run folder holds; what is missing or cannot be read is told on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.store import atomic_path
from evaluation.report.draft import Draft
from evaluation.report.folder import FoundStage, find_stages
from evaluation.report.page import page_text


def build_report(
    runs: Sequence[Path], folder: Path | None = None, about: Mapping[str, str] | None = None
) -> Path:
    """Write the page of a run, or of several with other seeds, and its figures as SVG, PNG and JSON.

    Figures of a former page there that this one has not are removed.

    Args:
        runs: run folders or folders of stages; the first is shown in full, all count where runs are compared.
        folder: where the page goes; by default a folder `report` in the first run's folder, or
            `<stage>.report` beside a stage's (a file inside it would count as part of its result).
        about: a sentence on each kind of stage.
    Returns:
        The page's file.
    Raises:
        ValueError: a run is no folder, or the page cannot be written.
    """
    if not runs:
        raise ValueError("report: name at least one run folder, runs/<pipeline>")
    found: dict[str, list[FoundStage]] = {}
    for run in runs:
        name = run.resolve().name or str(run)
        found[name if name not in found else f"{name} ({len(found) + 1})"] = find_stages(run)
    place = folder or _default_folder(runs[0].resolve(), next(iter(found.values())))
    page = place / "index.html"
    draft = Draft(runs=found, folder=place, about=about or {})
    try:
        before = figure_files(page)
        text = page_text(draft)
        with atomic_path(page) as temporary:
            temporary.write_text(text, encoding="utf-8")
        for name in before - figure_files(page):
            (place / name).unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(
            f"report: {place} cannot be written ({error}); name another folder with --output FOLDER"
        ) from error
    return page


def figure_files(page: Path) -> set[str]:
    """Files of the figures that a page leads to, from its folder; none where there is no page yet."""
    if not page.is_file():
        return set()
    text = page.read_text(encoding="utf-8", errors="replace")
    return set(re.findall(r"<a href='(figures/[a-z0-9-]+\.(?:svg|png|json))'>", text))


def _default_folder(run: Path, stages: Sequence[FoundStage]) -> Path:
    is_stage = [found.folder.resolve() for found in stages] == [run]
    return run.with_name(f"{run.name}.report") if is_stage else run / "report"
