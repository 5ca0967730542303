"""What is checked before an SFT run, so that no run ends with a model that never stops or never thinks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.chat import Example, TemplateError, coloured, render_trace
from data.prompts import Prompter
from data.schema import Attempt, Rejected, attempt_row, rejected

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """The traces as training rows, and those that cannot be trained on."""

    examples: list[Example]
    problems: list[str]
    """The id of each example's problem."""
    rejected: list[Rejected]


def render_traces(prompter: Prompter, traces: Sequence[Attempt], *, max_length: int | None) -> Rendered:
    """Render every trace; one longer than `max_length` tokens is rejected, since cut it would never end.

    Raises:
        ValueError: the chat template strips the thinking, or no trace is left.
    """
    examples: list[Example] = []
    problems: list[str] = []
    bad: list[Rejected] = []
    for trace in traces:
        completion = trace.completion
        try:
            example = render_trace(prompter, trace.problem.question, completion.thinking, completion.response)
        except TemplateError:
            raise
        except ValueError as error:
            bad.append(rejected(attempt_row(trace), "unrenderable", str(error)))
            continue
        if max_length is not None and len(example.input_ids) > max_length:
            bad.append(
                rejected(
                    attempt_row(trace), "overlong", f"{len(example.input_ids)} > max_length {max_length}"
                )
            )
        else:
            examples.append(example)
            problems.append(trace.problem.id)
    if not examples:
        raise ValueError(f"dataset: no trace can be trained on; the first: {bad[0].rule}: {bad[0].evidence}")
    return Rendered(examples=examples, problems=problems, rejected=bad)


def lint(prompter: Prompter, rendered: Rendered, *, max_overlong_fraction: float) -> None:
    """Print one example with its loss mask, then refuse what would train a broken model.

    Raises:
        ValueError: pad token equals end token, an example whose loss does not end with an end token, or too
        many
            overlong traces.
    """
    tokenizer: Any = prompter.tokenizer
    logger.info("an example (green: loss, dim: none)")
    print(coloured(prompter, rendered.examples[0]), flush=True)
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        raise ValueError(
            f"pad_token: {tokenizer.pad_token!r} is also the end token (or there is none), and a model "
            "trained so may never stop; set another token of the vocabulary, for example "
            f"`pad_token: {_spare_token(tokenizer)!r}`"
        )
    for example in rendered.examples:
        if example.labels[-1] != tokenizer.eos_token_id:
            raise ValueError(
                f"the loss ends with {tokenizer.decode(example.labels[-1:])!r}, not with the end token "
                f"{tokenizer.eos_token!r}: the model would not learn to stop; set `eos_token:` to the token "
                "with which the chat template ends an answer"
            )
    overlong = sum(row.rule == "overlong" for row in rendered.rejected)
    total = len(rendered.examples) + len(rendered.rejected)
    if overlong > max_overlong_fraction * total:
        raise ValueError(
            f"max_length: {overlong} of {total} traces are longer, more than max_overlong_fraction="
            f"{max_overlong_fraction}; raise max_length, curate shorter traces or accept a larger fraction"
        )


def _spare_token(tokenizer: Any) -> str:
    known = (
        "<|fim_pad|>",
        "<|reserved_special_token_5|>",
        "<|finetune_right_pad_id|>",
        "<|endoftext|>",
        "<unk>",
    )
    vocabulary = tokenizer.get_vocab()
    ends = {tokenizer.eos_token}
    return next(
        (token for token in known if token in vocabulary and token not in ends), "a token of your own"
    )
