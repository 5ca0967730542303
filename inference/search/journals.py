"""Finished searches on disk, one journal for each setting and process, so that only one setting is in memory
at a time and a killed run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from data.store import Journal, journal_rows
from inference.draw import not_seen
from inference.search.records import Record, record_from_row

JOURNAL = "searches.journal"


def journal_of(folder: Path, setting: int, process: int) -> Journal:
    """The journal to which a process appends its records of a setting."""
    return Journal(folder / f"{JOURNAL}.{setting:03}.{process}")


def finished_records(folder: Path, setting: int) -> dict[str, Record]:
    """The records of a setting by problem id, of whatever processes."""
    paths = sorted(folder.glob(f"{JOURNAL}.{setting:03}.*"))
    records = (record_from_row(row) for path in paths for row in journal_rows(path))
    return {record.result.problem.id: record for record in records}


def all_records(folder: Path, settings: int, ids: Sequence[str]) -> Iterator[Record]:
    """The records of all settings in their order, each in the order of the problems.

    Raises:
        OSError: some are in no journal.
    """
    for setting in range(settings):
        records = finished_records(folder, setting)
        if lost := sum(id not in records for id in ids):
            raise not_seen(folder, f"{lost} of {len(ids)} searches")
        for id in ids:
            yield records[id]


def remove_journals(folder: Path) -> None:
    """Remove all of them, when what they hold is safe elsewhere."""
    for path in folder.glob(f"{JOURNAL}.*"):
        path.unlink()
