"""What a recipe may say to stage `curate` (data/curate.py)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from data import diversity
from data.diversity import Diversity, TraceChoice
from data.quality import DEFAULT_RULES, MIN_LANGUAGE_SHARE, quality_rules
from data.thinking import thinking_format


@dataclass(kw_only=True)
class CurateConfig:
    """Where problems, attempts and traces are, and which traces to keep. Lengths are in thinking tokens."""

    problems: str
    """Folder with problems.parquet (of `collect`); traces of other problems are dropped."""
    traces: list[str] = field(default_factory=list)
    """Folders whose traces.parquet (else attempts.parquet) holds the candidates. Without any, problems are
    chosen instead, to be sampled later; rules on traces do not apply, and the length is that of the solution
    (of the question, where there is none)."""
    attempts: list[str] = field(default_factory=list)
    """Folders whose attempts.parquet measures difficulty."""
    thinking_format: str = "think_tags"
    """think_tags, answer_tags, s1 or s1_steps: how the text of the kept traces is rendered."""
    quality: list[str] = field(default_factory=lambda: list(DEFAULT_RULES))
    """Names of the quality rules to apply, in order; all rules are in data/quality.py."""
    language: str | None = None
    """Language that question and thinking must be in, for example en; null accepts any."""
    min_language_share: float = MIN_LANGUAGE_SHARE
    """Smallest share of the words of each that must be in `language`. 0.9 drops chains of mixed languages, as
    DeepSeek-R1 does (arXiv 2501.12948 section 2.3.3), and next to no English mathematics."""
    min_pass_rate: float = 0.0
    """Lowest pass rate of a problem to keep, all models together. Problems without verdicts are kept."""
    max_pass_rate: float = 1.0
    """Highest pass rate of a problem to keep."""
    bands: dict[str, list[float]] = field(default_factory=dict)
    """Lowest and highest pass rate for single models: {Qwen/Qwen2.5-7B-Instruct: [0, 0.5]}."""
    unsolved: bool = False
    """Keep only problems that no model solves, as s1 does."""
    drop_unmeasured: bool = False
    """Drop problems at which a model of the attempts has no judged attempt; else they are kept."""
    levels: list[str] = field(default_factory=list)
    """Levels of the problems to keep; without any, all."""
    min_level: float | None = None
    """Lowest level to keep, in place of a list of levels; null keeps all."""
    max_level: float | None = None
    """Highest level to keep. With either, problems whose level is no number are dropped."""
    level_column: str = "level"
    """Where the level is: `level`, or a column of the metadata."""
    require_correct: bool = True
    """Keep only traces whose verdict is correct."""
    require_thinking: bool = True
    """Keep only traces that think; false keeps answers to simple queries that need no thinking."""
    min_thinking_tokens: int = 0
    """Shortest thinking to keep; counted in words where the trace has no token count."""
    max_thinking_tokens: int | None = None
    """Longest thinking to keep; null keeps all."""
    length_column: str | None = None
    """Metadata column of the problems that holds the length in tokens: min_thinking_tokens and
    max_thinking_tokens apply to it (also where problems are chosen), rows where it is missing, NaN or no
    number are dropped, and it counts in the draw for traces without a token count."""
    repeated_ngram_words: int = 10
    """Length of the word runs whose repetition is measured."""
    max_repeated_share: float = 0.5
    """Drop traces in which a larger share of these runs is a repeat; 1 keeps all."""
    trace_choice: TraceChoice = "first"
    """Which of a problem's remaining traces to take: the first in the table, any, or by its length."""
    traces_per_problem: int = 1
    """At most so many traces of a problem, with different texts, in the order of trace_choice; DeepSeek-R1
    and ReST-EM keep several right ones."""
    size: int | None = None
    """Traces to draw; null takes all."""
    diversity: Diversity = "s1"
    """How to draw. s1: a domain, then a trace in it, with more weight on longer ones; uniform: a domain, then
    any trace in it; longest: the longest of all; random: any of all."""
    auto_select: list[dict] = field(default_factory=list)
    """Traces to take before drawing, those that meet one of these conditions, each for example {source:
    "*aime*", min_thinking_tokens: 0, require_correct: true}."""
    domain_weights: dict[str, float] = field(default_factory=dict)
    """Weights of domains in the second phase of the draw, for example their counts in a benchmark."""
    benchmark_weights: list[str] = field(default_factory=list)
    """Folders of benchmark problems (of `label_domains`) whose domains give these weights. Each folder counts
    alike and one named twice counts twice: s1 is AIME, AIME, GPQA."""
    phase_one_share: float = 0.7
    """Share of `size` until which domains are drawn uniformly, where domains have weights."""
    allow_fewer: bool = False
    """Accept fewer traces than `size`."""
    seed: int = 0
    """Seed of the draws; the same rows and seed give the same traces, however the rows are stored."""

    def __post_init__(self) -> None:
        thinking_format(self.thinking_format)
        quality_rules(self.quality)
        diversity.parse_conditions(self.auto_select, "auto_select")
        self._check_difficulty()
        self._check_weights()
        self._check_thinking()
        if self.traces_per_problem < 1:
            raise ValueError(f"traces_per_problem: {self.traces_per_problem} is less than 1")
        if not 0 < self.min_language_share <= 1:
            raise ValueError(f"min_language_share: {self.min_language_share} is not above 0 and at most 1")
        if self.min_language_share != MIN_LANGUAGE_SHARE and not self.language:
            raise ValueError("min_language_share: needs `language`, for example en")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size: {self.size} is less than 1; leave it out to take all traces")
        if self.repeated_ngram_words < 1:
            raise ValueError(f"repeated_ngram_words: {self.repeated_ngram_words} is less than 1")

    def _check_difficulty(self) -> None:
        if not 0 <= self.min_pass_rate <= self.max_pass_rate <= 1:
            raise ValueError(
                f"min_pass_rate {self.min_pass_rate}, max_pass_rate {self.max_pass_rate}: "
                "need 0 <= min <= max <= 1"
            )
        for model, band in self.bands.items():
            if len(band) != 2:
                raise ValueError(f"bands: {model}: {band} is not [lowest, highest]")
        for key in ("unsolved", "drop_unmeasured"):
            if getattr(self, key) and not self.attempts:
                raise ValueError(f"{key}: needs `attempts`, the folders whose attempts measure difficulty")
        low, high = self.min_level, self.max_level
        if self.levels and (low, high) != (None, None):
            raise ValueError("levels: give either a list or min_level and/or max_level")
        if low is not None and high is not None and not low <= high:
            raise ValueError(f"min_level {low}, max_level {high}: need min <= max")
        longest = self.max_thinking_tokens
        if not 0 <= self.min_thinking_tokens <= (math.inf if longest is None else longest):
            raise ValueError(
                f"min_thinking_tokens {self.min_thinking_tokens}, max_thinking_tokens {longest}: "
                "need 0 <= min <= max"
            )

    def _check_thinking(self) -> None:
        if self.require_thinking:
            return
        if "empty_thinking" in self.quality:
            raise ValueError(
                "require_thinking: false keeps what quality rule empty_thinking drops; drop one of them"
            )
        if self.min_thinking_tokens and not self.length_column:
            raise ValueError(
                f"require_thinking: false keeps what min_thinking_tokens {self.min_thinking_tokens} drops; "
                "drop one of them"
            )

    def _check_weights(self) -> None:
        if not self.benchmark_weights:
            return
        if self.domain_weights:
            raise ValueError("benchmark_weights: drop it or domain_weights; both give weights of domains")
        if self.size is None or self.diversity not in ("s1", "uniform"):
            raise ValueError(
                "benchmark_weights: set `size`, and `diversity` to s1 or uniform; no other draw has weights"
            )
