"""Stage `sample`: n verified completions per problem, written as they finish.

Weak-model attempts that measure difficulty, teacher traces, rejection sampling and STaR's rationalization
(`failed_in`, `hint`) are all this stage.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.hints import check_hint, without_leaks
from data.processes import is_part, world
from data.schema import (
    Problem,
)
from data.stage import run_stage
from data.store import (
    iterate_rows,
    read_problems,
    table_path,
    write_attempts,
    write_rejected,
)
from inference.draw import JOURNAL, attempt_metrics, draw, remove_journals
from inference.options import GenerationOptions

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class SampleConfig(GenerationOptions):
    """Fields of stage `sample`."""

    problems: str
    """Stage folder (run:01_collect) or parquet file with the problems."""
    num_completions: int = 4
    """Completions per problem."""
    limit: int | None = None
    """Only the first so many problems; `failed_in` chooses among these."""
    hint: str | None = None
    """Text with {answer} that is put behind each question, before question_suffix, as in STaR's
    rationalization (arXiv 2203.14465 section 3.2): "(Hint: the answer is {answer}.)". Problem and training
    text stay without it, and attempts that show that they had it are rejected (rule hint_leak,
    data/hints.py)."""
    failed_in: list[str] = field(default_factory=list)
    """Folders with attempts.parquet: only problems are put of which no attempt there is correct, those
    without an attempt among them. Where none can be put, the stage ends without attempts."""

    def __post_init__(self) -> None:
        GenerationOptions.__post_init__(self)
        if self.num_completions < 1:
            raise ValueError(f"num_completions: {self.num_completions} must be at least 1")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: {self.limit} must be at least 1")
        if self.hint is not None:
            check_hint(self.hint)


def sample(config: SampleConfig, folder: Path) -> dict[str, Any]:
    """Draw completions and write attempts.parquet. Killed and started again, it ends with the same rows."""
    problems = read_problems(config.problems)[: config.limit]
    if not problems:
        raise ValueError(f"problems: {config.problems} holds no problem")
    failed = _failed(config, problems)
    solved = len(problems) - len(failed)
    counts: Counter[str] = Counter()
    partial = world() > 1 or any(path.stat().st_size for path in folder.glob(f"{JOURNAL}*"))
    attempts, bad = [], []
    if failed:
        attempts, bad = draw(
            config,
            failed,
            config.num_completions,
            folder,
            counts=counts,
            hint=config.hint,
            may_be_empty=bool(config.failed_in),
        )
    if not attempts and not is_part():
        text = "nothing to sample: %d of %d problems were solved before, %d cannot be put to the model"
        logger.info(text, solved, len(problems), len(bad))
    if is_part():
        return {}
    kept, leaks = without_leaks(attempts, config.hint)
    write_attempts(folder, kept)
    write_rejected(folder, [*bad, *leaks])
    remove_journals(folder)
    return {
        "problems": len(failed),
        "attempts": len(kept),
        "rejected": len(bad) + len(leaks),
        **attempt_metrics(kept),
        "tokens": sum(a.completion.completion_tokens for a in attempts),  # of the rejected ones too
        **({"solved_before": solved} if config.failed_in else {}),
        **({"hint_leaks": len(leaks)} if config.hint is not None else {}),
        **({"counts_are_partial": partial, **counts} if counts else {}),
    }


def _failed(config: SampleConfig, problems: list[Problem]) -> list[Problem]:
    """The problems of which no attempt in `failed_in` is correct; all where there are no such folders.

    Raises:
        ValueError: a folder without attempts.
    """
    solved = set()
    for folder in config.failed_in:
        path = table_path(folder, "attempts")
        if not path.is_file():
            raise ValueError(f"failed_in: {folder} has no attempts.parquet; give a folder of stage sample")
        solved |= {row["id"] for row in iterate_rows(path, "attempts") if row["verdict"] == "correct"}
    return [problem for problem in problems if problem.id not in solved]


if __name__ == "__main__":
    run_stage(sample, SampleConfig, shares=True)
