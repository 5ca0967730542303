"""Texts of nodes with a tokenizer whose texts depend on what is before them, as those of Llama do."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from data.prompts import Prompt
from data.schema import Problem
from inference.budget import Tags
from inference.engine import Request, SamplingParams
from inference.rows import Row, Rows
from inference.search.strategies.revisions import reopen
from inference.search.tree import Tree, text_behind
from inference.stops import Stops
from tests.inference.search.digits import FORM


@pytest.fixture(scope="module")
def llama() -> Any:
    """A space before the first token of a text is not written, and a character that is no token is one for
    each of its bytes."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdWit<>/hnk\n"]
    pairs = [("▁", "a"), ("▁", "b"), ("▁a", "b"), ("c", "d"), ("▁", "▁"), ("\n", "\n")]
    vocabulary = {token: id for id, token in enumerate(dict.fromkeys([*tokens, *map("".join, pairs)]))}
    made = Tokenizer(models.BPE(vocabulary, pairs, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )


def test_texts_of_parts_are_that_of_the_whole(llama: Any) -> None:
    draws = random.Random(0)
    prompt = llama("ab cd a\nb")["input_ids"]
    characters = [llama(c, add_special_tokens=False)["input_ids"][1:] for c in "é😀𒀀"]
    for _ in range(300):
        pieces = [
            draws.choice(characters) if draws.random() < 0.4 else [draws.randrange(259, len(llama))]
            for _ in range(12)
        ]
        ids, text = list(prompt), ""
        while pieces:
            count = draws.randint(1, 4)
            part = [token for piece in pieces[:count] for token in piece]
            text += text_behind(llama.decode, ids, part)
            ids, pieces = ids + part, pieces[count:]
        assert llama.decode(prompt) + text == llama.decode(ids)


def test_a_stop_that_the_whole_text_does_not_have_ends_nothing(llama: Any) -> None:
    """Bytes that are no character make all bytes beside them unreadable."""
    ids = llama.convert_tokens_to_ids(["<0x80>", *["<0x61>"] * 6, "<0x0A>", "<0x0A>"])
    params = SamplingParams(max_tokens=20, stop=("\n\n",))
    engine = SimpleNamespace(tokenizer=llama, stops=Stops(llama), end_ids=[llama.eos_token_id])
    rows: Any = SimpleNamespace(engine=engine)
    assert engine.stops.found(ids, 0, params.stop)
    assert "\n" not in llama.decode(ids)
    row = Row(0, Request(prompt_ids=(), params=params), ids)
    assert Rows._finished(rows, row) is None
    row.ids = ids[1:]
    made = Rows._finished(rows, row)
    assert made is not None
    assert (made.text, made.stop_reason) == ("aaaaaa\n\n", "\n\n")


@pytest.mark.parametrize("written", ["ab cd</think>b", "ab\n</think>\n\nb", "ab cd\n\n</think>b", "ab"])
def test_what_is_thought_over_again_has_nothing_of_the_tag(llama: Any, written: str) -> None:
    prompt, ids = llama("a")["input_ids"], llama(written, add_special_tokens=False)["input_ids"]
    tree = Tree(
        problem=Problem(id="1", question="a", answer="1"),
        prompt=Prompt(text="a", prefill="", ids=tuple(prompt)),
        tags=Tags(llama, FORM),
        max_tokens=100,
    )
    head = tree.add(tree.root, text_behind(llama.decode, prompt, ids), [*ids, llama.eos_token_id], "stop")
    node = reopen(tree, head, "Wait")
    assert node is not None
    assert node.text == text_behind(llama.decode, prompt, node.token_ids)
    thought = written.partition("</think>")[0].rstrip("\n")
    assert node.text.split() == [*thought.split(), "Wait"]
