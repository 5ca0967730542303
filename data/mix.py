"""Stage `mix`: traces of several parts by weight, shuffled, to fine-tune on.

DeepSeek-R1 trains on 600k reasoning and 200k other traces, 3 : 1 (arXiv 2501.12948 section 2.3.3); small
students learn more from 20 % long and 80 % short traces than from long ones alone (mix-long, arXiv
2502.12143).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from data.field_values import parse_mapping
from data.filters import Dropped, sort_key, trace_length
from data.schema import Attempt
from data.sources import refuse_eval_rows
from data.stage import run_stage
from data.store import read_attempts, table_path, write_attempts, write_rejected


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a mixture."""

    traces: str
    """Folder with traces.parquet (of `curate` or `collect`), or the file."""
    weight: float
    """Its share of the mixture, relative to the other weights; above 0."""
    name: str = ""
    """What it is called in metrics and messages; the folder's name where it is not given."""
    min_thinking_tokens: int = 0
    """Shortest thinking that is drawn; counted in words where the trace has no token count."""
    max_thinking_tokens: int | None = None
    """Longest thinking that is drawn; null draws all."""


@dataclass(kw_only=True)
class MixConfig:
    """Which traces to mix, in which shares."""

    parts: list[dict]
    """{traces: run:03_curate, weight: 3, name: reasoning, min_thinking_tokens: 0, max_thinking_tokens: null}
    each; traces and weight are needed (data/mix.py, `Part`)."""
    size: int | None = None
    """Traces of the mixture; null takes as many as the weights allow without repeating a trace."""
    max_repeats: int = 1
    """How often a trace may be in the mixture, where `size` asks for more than a part has."""
    seed: int = 0
    """Seed of draw and shuffle; the same rows and seed give the same mixture, however the rows are stored."""

    def __post_init__(self) -> None:
        parse_parts(self.parts)
        if self.size is not None and self.size < 1:
            raise ValueError(f"size: {self.size} is less than 1; leave it out to take what the weights allow")
        if self.max_repeats < 1:
            raise ValueError(f"max_repeats: {self.max_repeats} is less than 1")
        if self.size is None and self.max_repeats > 1:
            raise ValueError("max_repeats: needs `size`; without it no trace is repeated")


def parse_parts(entries: Sequence[Mapping[str, Any]]) -> list[Part]:
    """The parts of a recipe, each with its name.

    Raises:
        ValueError: no part, an unknown or missing key, a weight that is not above 0, lengths that nothing
        has, or two parts of one name.
    """
    if not entries:
        raise ValueError("parts: give one or more, {traces: .., weight: ..} each")
    parts: list[Part] = []
    for index, entry in enumerate(entries):
        key = f"parts[{index}]"
        part = parse_mapping(Part, entry, key, "a part")
        weight, longest = float(part.weight), part.max_thinking_tokens
        if not 0 < weight < math.inf:
            raise ValueError(f"{key}: weight: {part.weight} is not a number above 0")
        if not 0 <= part.min_thinking_tokens <= (math.inf if longest is None else longest):
            raise ValueError(
                f"{key}: min_thinking_tokens {part.min_thinking_tokens}, max_thinking_tokens {longest}: "
                "need 0 <= min <= max"
            )
        path = Path(part.traces)
        name = part.name or (path.parent.name if path.suffix == ".parquet" else path.name)
        if name in [other.name for other in parts]:
            raise ValueError(f"{key}: another part is called {name!r} too; give each a `name`")
        parts.append(replace(part, name=name, weight=weight))
    return parts


def mix(config: MixConfig, folder: Path) -> dict[str, Any]:
    """Write traces.parquet, shuffled, and rejected/rows.parquet (rules outside_length, duplicate, not_drawn).

    Returns:
        rows_in, rows_out; `parts`: by name the rows `in`, `wanted_share`, rows `out`, their `share`, and
        `mean_thinking_tokens` of these (words where nobody counted).
    Raises:
        ValueError: a missing table, a trace of role eval, a trace in two parts, weights that the traces
            cannot meet.
    """
    parts = parse_parts(config.parts)
    stored = [_read(part, f"parts[{index}]") for index, part in enumerate(parts)]
    dropped: list[Dropped] = []
    fitting = [_fitting(part, traces, dropped) for part, traces in zip(parts, stored, strict=True)]
    _refuse_shared(parts, fitting)
    counts = part_sizes(parts, [len(traces) for traces in fitting], config.size, config.max_repeats)
    mixture: list[Attempt] = []
    metrics: dict[str, dict[str, Any]] = {}
    for part, share, traces, rows_in, count in zip(
        parts, shares(parts), fitting, map(len, stored), counts, strict=True
    ):
        drawn = draw(traces, count, f"{config.seed}:mix:{part.name}")
        kept = {id(trace) for trace in drawn}
        evidence = f"part {part.name}: {count} drawn of {len(traces)}, seed {config.seed}"
        dropped += [Dropped(trace, "not_drawn", evidence) for trace in traces if id(trace) not in kept]
        mixture += drawn
        metrics[part.name] = {
            "in": rows_in,
            "wanted_share": float(share),
            "out": count,
            "share": count / sum(counts),
            "mean_thinking_tokens": sum(map(trace_length, drawn)) / count,
        }
    random.Random(f"{config.seed}:mix").shuffle(mixture)
    write_attempts(folder, mixture, "traces")
    write_rejected(folder, (row.row() for row in dropped))
    return {"rows_in": sum(map(len, stored)), "rows_out": len(mixture), "parts": metrics}


# ------------------------------------------------------------------ what there is


def _read(part: Part, key: str) -> list[Attempt]:
    if not table_path(part.traces, "traces").is_file():
        raise ValueError(
            f"{key}: {part.traces} has no traces.parquet; give a folder of stage curate or collect"
        )
    traces = read_attempts(part.traces, "traces")
    refuse_eval_rows((trace.problem for trace in traces), f"{key}: {part.traces}")
    return traces


def _fitting(part: Part, traces: Sequence[Attempt], dropped: list[Dropped]) -> list[Attempt]:
    """Traces of the part's lengths, each text once, in an order that does not depend on how they are stored;
    the others go to `dropped`."""
    shortest, longest = part.min_thinking_tokens, part.max_thinking_tokens
    limits = f"at least {shortest}" if longest is None else f"{shortest} to {longest}"
    fitting: dict[tuple[str, str, str], Attempt] = {}
    for trace in sorted(traces, key=lambda trace: (*sort_key(trace), trace.completion.response)):
        length = trace_length(trace)
        if not shortest <= length <= (math.inf if longest is None else longest):
            dropped.append(
                Dropped(trace, "outside_length", f"part {part.name}: {length}, not {limits} tokens")
            )
        elif _identity(trace) in fitting:
            dropped.append(
                Dropped(trace, "duplicate", f"part {part.name} has this text of the problem before")
            )
        else:
            fitting[_identity(trace)] = trace
    return list(fitting.values())


def _identity(trace: Attempt) -> tuple[str, str, str]:
    return trace.problem.id, trace.completion.thinking, trace.completion.response


def _refuse_shared(parts: Sequence[Part], fitting: Sequence[Sequence[Attempt]]) -> None:
    """A trace in two parts would count for either share, as the order of the parts had it."""
    owner: dict[tuple[str, str, str], str] = {}
    for part, traces in zip(parts, fitting, strict=True):
        shared = [key for trace in traces if (key := _identity(trace)) in owner]
        if shared:
            raise ValueError(
                f"parts: {len(shared)} traces are in {owner[shared[0]]!r} and in {part.name!r}, the first of "
                f"problem {shared[0][0]}; leave one of them out or give them min_thinking_tokens and "
                "max_thinking_tokens that do not overlap"
            )
        owner |= {_identity(trace): part.name for trace in traces}


# ------------------------------------------------------------------ how many of each


def shares(parts: Sequence[Part]) -> list[Fraction]:
    """Share of each part, exactly as the weights are written."""
    weights = [Fraction(str(part.weight)) for part in parts]
    return [weight / sum(weights) for weight in weights]


def apportion(wanted: Sequence[Fraction], size: int) -> list[int]:
    """`size` rows in these shares: each part's floor, and the rows left to the largest remainders."""
    counts = [math.floor(share * size) for share in wanted]
    by_remainder = sorted(range(len(wanted)), key=lambda i: counts[i] - wanted[i] * size)
    for index in by_remainder[: size - sum(counts)]:
        counts[index] += 1
    return counts


def largest_size(wanted: Sequence[Fraction], limits: Sequence[int]) -> int:
    """The largest size in these shares of which no part has more than its limit."""
    size = min(math.floor((limit + 1) / share) for limit, share in zip(limits, wanted, strict=True))
    while not _within(apportion(wanted, size), limits):
        size -= 1
    return size


def _within(counts: Sequence[int], limits: Sequence[int]) -> bool:
    return all(count <= limit for count, limit in zip(counts, limits, strict=True))


def part_sizes(
    parts: Sequence[Part], available: Sequence[int], size: int | None, max_repeats: int
) -> list[int]:
    """Rows of each part; `size` together, or as many as the weights allow.

    Raises:
        ValueError: a part has no trace, too few of them or a share of less than one row; says what helps.
    """
    for part, there in zip(parts, available, strict=True):
        if not there:
            raise ValueError(f"parts: {part.name!r} has no trace of the lengths asked for; leave it out")
    wanted, limits = shares(parts), [there * max_repeats for there in available]
    counts = apportion(wanted, largest_size(wanted, limits) if size is None else size)
    if not _within(counts, limits):
        raise ValueError(_too_few(parts, available, counts, max_repeats))
    for part, count in zip(parts, counts, strict=True):
        if not count:
            raise ValueError(
                f"parts: {part.name!r} gets none of {sum(counts)} traces; raise its weight or leave it out"
            )
    return counts


def _too_few(parts: Sequence[Part], available: Sequence[int], counts: Sequence[int], max_repeats: int) -> str:
    """Which parts have too few traces, and every change that helps by itself."""
    size, limits = sum(counts), [there * max_repeats for there in available]
    short = [i for i, count in enumerate(counts) if count > limits[i]]
    repeated = f" times max_repeats {max_repeats}" if max_repeats > 1 else ""
    facts = [f"{parts[i].name!r} wants {counts[i]} traces and has {available[i]}{repeated}" for i in short]
    fixes = [f"max_repeats: {max(-(-counts[i] // available[i]) for i in short)}"]
    if largest := largest_size(shares(parts), limits):
        fixes.insert(0, f"size: {largest}")
    for i in short:
        others = sum(part.weight for part in parts) - parts[i].weight
        weight = float(f"{limits[i] * others / (size - limits[i]) * 0.999:.3g}") if size > limits[i] else 0
        lighter = [replace(part, weight=weight) if j == i else part for j, part in enumerate(parts)]
        if weight > 0 and _within(apportion(shares(lighter), size), limits):
            fixes.append(f"weight: {weight:g} for {parts[i].name!r}")
    return f"parts: of {size} traces {', '.join(facts)}; set {' or '.join(fixes)}"


def draw(traces: Sequence[Attempt], count: int, seed: str) -> list[Attempt]:
    """`count` of the traces; each is drawn once more only when all have been drawn as often."""
    times, rest = divmod(count, len(traces))
    return [*list(traces) * times, *random.Random(seed).sample(traces, rest)]


if __name__ == "__main__":
    run_stage(mix, MixConfig)
