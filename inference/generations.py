"""Generations from generated tokens: end tokens, stop texts, and ids that a tokenizer does not know."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from data.schema import FinishReason
from inference.engine import Generation, Request
from inference.models import locate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Ending(NamedTuple):
    """How a completion ended."""

    reason: FinishReason
    stop: str | None = None
    """The stop text that is said to have ended it."""

    @property
    def of_itself(self) -> bool:
        """By an end token, which is the last one."""
        return self.reason == "stop" and self.stop is None


def finished_generation(
    tokenizer: PreTrainedTokenizerBase,
    ids: list[int],
    ending: Ending,
    stops: Sequence[str],
    logprobs: list[float] | None = None,
) -> Generation:
    """The generation of these tokens, cut behind the stop text that is complete first."""
    text = str(tokenizer.decode(ids[:-1] if ending.of_itself else ids))
    found = [(text.find(stop) + len(stop), stop) for stop in stops if stop in text]
    if found:
        end, stop = min(found, key=lambda place: place[0])
        text, ending = text[:end], Ending("stop", stop)
        length = bisect_left(range(len(ids)), True, key=lambda n: stop in str(tokenizer.decode(ids[:n])))
        ids, logprobs = ids[:length], logprobs and logprobs[:length]
    return Generation(
        token_ids=ids, text=text, finish_reason=ending.reason, stop_reason=ending.stop, logprobs=logprobs
    )


def stream_seed(request: Request) -> int:
    """Seed of a request's random stream where the sampler itself knows no place: differs with the length of
    the prompt, so that what follows a generation does not repeat its random numbers. Below 2**63."""
    return (request.seed + len(request.prompt_ids) * 0x9E3779B97F4A7C15) % 2**63


def unknown_ids(tokenizer: PreTrainedTokenizerBase, outputs: int) -> frozenset[int]:
    """Ids below `outputs`, the number of outputs of a model, that its tokenizer does not know."""
    return frozenset(range(outputs)).difference(tokenizer.get_vocab().values())


def number_of_outputs(model: str) -> int:
    """Number of outputs of a model by its config.json; 0 where there is none."""
    from transformers import PretrainedConfig

    try:
        config, _ = PretrainedConfig.get_config_dict(locate(model))
    except OSError:
        return 0
    return int(config.get("vocab_size") or config.get("text_config", {}).get("vocab_size") or 0)


def prompt_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str | None:
    """The text that a server tokenises to these ids (its tokenizer may put a first token before them), or
    None."""
    for start in (0, 1):
        text = str(tokenizer.decode(list(ids[start:])))
        if list(tokenizer(text)["input_ids"]) == list(ids):
            return text
    return None
