"""Curation where one machine is outgrown: its rules and decontamination as blocks of a datatrove pipeline.

    from datatrove.executor import LocalPipelineExecutor
    from data.datatrove_blocks import Decontaminate, RuleFilter, table_reader, table_writer

    pipeline = [
        table_reader("pool"),
        RuleFilter(["missing", "damaged", "image"], table_writer("out/rejected/rules", "rejected")),
        Decontaminate([{"id": "math500"}], exclusion_writer=table_writer("out/rejected/leaks", "rejected")),
        table_writer("out/problems", "problems"),
    ]
    LocalPipelineExecutor(pipeline, tasks=64, workers=8, logging_dir="out/logs").run()

A task takes whole files, so the pool is a folder of many; one that is killed starts its files again, finished
ones are skipped. Documents without a question are left out by datatrove's readers, with a warning. On a
cluster only the executor is another one; the folders are on a disk that all nodes see, and the project is
installed in the environment of every node:

    RayPipelineExecutor(pipeline, tasks=64, workers=16, logging_dir="out/logs").run()    # after ray.init()
    SlurmPipelineExecutor(pipeline, tasks=64, workers=16, time="04:00:00", partition="cpu", qos="",
        venv_path=".venv/bin/activate", logging_dir="out/logs").run()         # from the login node

The one for Ray was run on a single machine (ray 2.60) and gave the rows of the local one; the one for Slurm
was not run.

Duplicates are no matter of one document: stage `collect` drops them. datatrove's MinHash blocks need
`TextNormConfig(norm_numbers=False, remove_punctuation=False)`: as they come, they drop questions that differ
only in their numbers. Needs the extra `scale` (datatrove 0.10).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter

from data.collect import benchmark_problems, parse_benchmarks
from data.curate import unsampled
from data.decontaminate import BenchmarkIndex
from data.filters import Rule, apply_rules
from data.quality import quality_rules
from data.schema import (
    Attempt,
    Problem,
    attempt_from_row,
    attempt_row,
    problem_from_row,
    problem_row,
    rejected,
    table_features,
)
from data.sources import Source

_EMPTY_PROBLEM = problem_row(Problem(id="", question="", answer=""))
_EMPTY = {**attempt_row(unsampled(problem_from_row(_EMPTY_PROBLEM))), "thinking": ""}
_REASON, _EVIDENCE = "filter_reason", "filter_evidence"
_NOTES = (_REASON, _EVIDENCE, "file_path")  # what filters and datatrove's readers add


class RuleFilter(BaseFilter):
    """Drops what a rule of `data.quality`, `data.filters` or `data.difficulty` has evidence against.

    Args:
        rules: names of `QUALITY_RULES`, or rules by name: {**quality_rules(DEFAULT_RULES),
            "not_correct": not_correct, "too_long": longer_than(8192), **outside_levels(low=4)}. What has no
            thinking passes `answer_only`, as in stage `curate`.
        exclusion_writer: a writer of datatrove's (`table_writer`, JsonlWriter) for what is dropped; metadata
            have the rule as `filter_reason` and the evidence as `filter_evidence`.
    Raises:
        ValueError: an unknown name.
    """

    name = "rules"

    def __init__(self, rules: Sequence[str] | Mapping[str, Rule], exclusion_writer: Any = None) -> None:
        super().__init__(exclusion_writer)
        self.rules = dict(rules) if isinstance(rules, Mapping) else quality_rules(rules)
        self.problem_rules = {name: rule for name, rule in self.rules.items() if name != "answer_only"}

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """True, or False and the first rule that drops the document."""
        rules = self.rules if "thinking" in doc.metadata else self.problem_rules
        _, dropped, _ = apply_rules(rules, [trace_of(doc)])
        return _dropped(doc, dropped[0].rule, dropped[0].evidence) if dropped else True


class Decontaminate(BaseFilter):
    """Drops questions that share text with a benchmark, as stage `collect` does (rule `contaminated`).

    Args:
        benchmarks: entries as in a recipe of `collect`: [{"id": "math500"}]. Every process reads them once.
        ngram_words, ngram_characters, exclusion_writer: see `BenchmarkIndex` and `RuleFilter`.
    Raises:
        ValueError: no benchmark, a bad entry, or one of role train; later, a benchmark without questions.
    """

    name = "decontaminate"

    def __init__(
        self,
        benchmarks: Sequence[Mapping[str, Any]],
        ngram_words: int = 8,
        ngram_characters: int = 0,
        exclusion_writer: Any = None,
    ) -> None:
        super().__init__(exclusion_writer)
        self.benchmarks = json.dumps(benchmarks)
        self.ngram_words, self.ngram_characters = ngram_words, ngram_characters
        _sources(self.benchmarks)

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """True, or False and `contaminated`."""
        match = _index(self.benchmarks, self.ngram_words, self.ngram_characters).match(doc.text)
        return True if match is None else _dropped(doc, "contaminated", match.evidence)


def table_reader(folder: str, **options: Any) -> ParquetReader:
    """datatrove's reader of the problems, attempts or traces tables in a folder, nothing in them changed.

    A stage's own folder holds several tables: table_reader(folder, glob_pattern="problems.parquet").
    A reader of other files gives the question as text and the columns of the schema (answer, thinking, ..) as
    metadata: JsonlReader(folder, text_key="question"). What has no `thinking` is a problem.
    """
    return ParquetReader(folder, adapter=_document, **options)


def table_writer(folder: str, table: str) -> ParquetWriter:
    """datatrove's writer of our problems, attempts, traces or rejected tables, one file a task.

    Each file is read by itself: `problems: out/problems/000_00000.parquet`.

    Raises:
        ValueError: no such table.
    """
    adapter = _rejected_row if table == "rejected" else _table_row
    return ParquetWriter(folder, adapter=adapter, schema=table_features(table).arrow_schema)


def trace_of(document: Document) -> Attempt:
    """The trace that a document stands for; without `thinking`, the problem as stage `curate` sees it.

    Columns of the schema that are missing or null are empty; other metadata are the problem's.
    """
    row = _row(document)
    return attempt_from_row(row) if "thinking" in row else unsampled(problem_from_row(row))


def _row(document: Document) -> dict[str, Any]:
    """The row of our tables: of a trace where the document has a thinking, else of a problem."""
    given = {k: v for k, v in document.metadata.items() if v is not None and k not in _NOTES}
    extra = given.pop("metadata", None) or {}
    extra = json.loads(extra) if isinstance(extra, str) else extra
    extra |= {key: value for key, value in given.items() if key not in _EMPTY}
    columns = _EMPTY if "thinking" in document.metadata else _EMPTY_PROBLEM
    known = {key: given.get(key, empty) for key, empty in columns.items()}
    texts = {key: str(known[key]) for key, empty in columns.items() if isinstance(empty, str)}
    metadata = json.dumps(extra, ensure_ascii=False, sort_keys=True, default=str)
    return {**known, **texts, "id": document.id, "question": document.text, "metadata": metadata}


def _document(reader: Any, row: dict[str, Any], path: str, number: int | str) -> dict[str, Any]:
    """datatrove's adapter of a reader: the question is the text, the other columns are metadata."""
    return {"text": row.pop("question"), "id": row.pop("id"), "metadata": row}


def _table_row(writer: Any, document: Document) -> dict[str, Any]:
    """datatrove's adapter of a writer."""
    return _row(document)


def _rejected_row(writer: Any, document: Document) -> dict[str, Any]:
    """datatrove's adapter of a writer of dropped documents."""
    return asdict(rejected(_row(document), document.metadata[_REASON], document.metadata[_EVIDENCE]))


def _dropped(document: Document, rule: str, evidence: str) -> tuple[bool, str]:
    document.metadata[_EVIDENCE] = evidence
    return False, rule


def _sources(benchmarks: str) -> list[Source]:
    sources = parse_benchmarks(json.loads(benchmarks))
    if not sources:
        raise ValueError("benchmarks: is empty; name at least one, for example {id: math500}")
    return sources


@cache
def _index(benchmarks: str, ngram_words: int, ngram_characters: int) -> BenchmarkIndex:
    return BenchmarkIndex(benchmark_problems(_sources(benchmarks)), ngram_words, ngram_characters)
