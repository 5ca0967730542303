"""Training rows of `benchmarks.sft`: real reasoning traces, or a stated synthetic length mix."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from data.chat import IGNORED, Example, render_trace
from data.prompts import Prompter
from data.thinking import S1

RESPONSE_TEMPLATE = "<|im_start|>assistant\n"
PAD, END = "<|endoftext|>", "<|im_end|>"
PAD_NUMBER = 0
"""Pad token after renumbering."""
STRIDE = 5
"""Every fifth trace of a file is read: the mix of sources stays, tokenising takes seconds."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What both sides train on. Token ids are renumbered to those that occur, so that the output layer
    is no larger a part of the small model than of a large one."""

    rows: list[Example]
    response_template: list[int]
    vocabulary: int
    tokenizer: Any
    max_length: int
    source: str
    population: int
    """Rows that `rows` stand for."""
    padding_factor: float
    """Positions of padded batches per token of the rows, as expected over orders of the population."""


def make_work(traces: Path | None, *, rows: int, max_length: int, batch: int, seed: int) -> Work:
    """Rows with the length mix of the real traces in folder `traces`, of a lognormal mix without it."""
    tokenizer = chat_tokenizer() if traces is not None else None
    if traces is not None and tokenizer is not None:
        source = f"{traces}: every {STRIDE}th trace"
        prompter = Prompter(tokenizer=tokenizer, style="direct", thinking_format=S1)
        found = [row for question, text in real_traces(traces) for row in rendered(prompter, question, text)]
        template = tokenizer(RESPONSE_TEMPLATE, add_special_tokens=False)["input_ids"]
    else:
        missing = "SLOWTHINK_DATA is not set" if traces is None else "the SmolLM2 tokenizer is not converted"
        source = (
            f"synthetic, since {missing}: lognormal lengths, prompt 108 (sigma .48), target 468 (sigma .67)"
        )
        tokenizer, template = plain_tokenizer(), [1, 3, 4]
        found = synthetic_rows(template, count=1000, seed=seed)
    population = [row for row in found if len(row.input_ids) <= max_length]
    chosen, factor = representative(population, rows, batch, seed)
    vocabulary = sorted({token for row in chosen for token in row.input_ids})
    number = {token: index for index, token in enumerate(vocabulary, start=PAD_NUMBER + 1)}
    return Work(
        rows=[renumbered(row, number) for row in chosen],
        response_template=[number[token] for token in template],
        vocabulary=len(vocabulary) + 1,
        tokenizer=tokenizer,
        max_length=max_length,
        source=source,
        population=len(population),
        padding_factor=factor,
    )


def chat_tokenizer() -> Any | None:
    """SmolLM2's tokenizer, None where it is not on this machine."""
    from inference.models import cached_folder, load_tokenizer

    name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    if not cached_folder(name).is_dir():
        return None
    tokenizer: Any = load_tokenizer(name)
    tokenizer.eos_token, tokenizer.pad_token = END, PAD
    return tokenizer


def plain_tokenizer() -> Any:
    """A tokenizer of four control tokens, which the trainer asks for and synthetic rows do not need."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {PAD: 0, "<|im_start|>": 1, END: 2, "assistant": 3}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token=END, pad_token=PAD, unk_token=PAD)


def real_traces(folder: Path) -> Iterator[tuple[str, str]]:
    """(question, whole output) of every model in the files of real outputs; empty outputs are left out."""
    for file in sorted(folder.glob("*.json*")):
        text = file.read_text(encoding="utf-8")
        content = (
            [json.loads(line) for line in text.splitlines()] if file.suffix == ".jsonl" else json.loads(text)
        )
        pairs = [pair for pair in _pairs(content) if pair[1].strip()]
        yield from pairs[::STRIDE]


def _pairs(content: Any) -> Iterator[tuple[str, str]]:
    if isinstance(content, dict) and "instances" in content:  # PlanBench, DeepSeek-R1's API objects
        for row in content["instances"]:
            if row["response_object"]:
                message = row["response_object"]["choices"][0]["message"]
                yield row["query"], message["reasoning_content"] + "\n\n" + message["content"]
    elif isinstance(content, dict):  # reasoning-gym evaluations
        sets = [each for category in content["categories"] for each in category["datasets"]]
        for row in (row for each in sets for row in each["results"]):
            yield from ((row["question"], sample["full_model_response"]) for sample in row["completions"])
    else:
        for row in content:  # ZeroEval has `output`, Qwen2.5-Math's evaluation `code`
            yield from (
                (row.get("problem") or row["question"], text) for text in row.get("output") or row["code"]
            )


def rendered(prompter: Prompter, question: str, output: str) -> list[Example]:
    """The row of stage `sft`, the last paragraph as response; none for texts that the stage refuses."""
    thinking, _, response = output.strip().rpartition("\n\n")
    try:
        return [render_trace(prompter, question, thinking, response)]
    except ValueError:
        return []


def synthetic_rows(template: Sequence[int], *, count: int, seed: int) -> list[Example]:
    """Random tokens in rows whose lengths are lognormal with the moments of the real traces."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        prompt = round(rng.lognormvariate(math.log(108), 0.48))
        target = round(rng.lognormvariate(math.log(468), 0.67))
        ids = [rng.randrange(8, 4096) for _ in range(prompt)] + list(template)
        labels = [rng.randrange(8, 4096) for _ in range(target)]
        rows.append(Example(input_ids=ids + labels, labels=[IGNORED] * len(ids) + labels))
    return rows


def representative(
    population: list[Example], count: int, batch: int, seed: int
) -> tuple[list[Example], float]:
    """`count` rows at equal steps of the sorted lengths, in an order with the population's padding factor.

    The factor, positions per token of padded batches, is the mean over random batches of the population; of
    500 random orders of the rows the one nearest to it is taken, so that a lucky draw favours neither side.

    Raises:
        ValueError: fewer rows in the population than asked for.
    """
    if len(population) < count:
        raise ValueError(f"only {len(population)} traces are short enough; {count} are needed")
    rng = random.Random(seed)
    ordered = sorted(population, key=lambda row: len(row.input_ids))
    lengths = [len(row.input_ids) for row in ordered]
    draws = [max(rng.choices(lengths, k=batch)) for _ in range(20_000)]
    expected = fmean(draws) / fmean(lengths)
    chosen = [ordered[int((index + 0.5) * len(ordered) / count)] for index in range(count)]
    orders = [rng.sample(chosen, count) for _ in range(500)]
    return min(orders, key=lambda rows: abs(padding(rows, batch) - expected)), expected


def padding(rows: list[Example], batch: int) -> float:
    """Positions of padded batches, in this order, per token of the rows."""
    lengths = [len(row.input_ids) for row in rows]
    groups = [lengths[start : start + batch] for start in range(0, len(lengths), batch)]
    return sum(len(group) * max(group) for group in groups) / sum(lengths)


def renumbered(row: Example, number: dict[int, int]) -> Example:
    return Example(
        input_ids=[number[token] for token in row.input_ids],
        labels=[label if label == IGNORED else number[label] for label in row.labels],
    )
