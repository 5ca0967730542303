"""`bad_words`: texts that are never generated, by the same means as the other banned tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.schema import Problem, problem_id
from data.small_world import WAIT, build_tokenizer
from inference.draw import draw
from inference.options import GenerationOptions, bad_ids
from inference.sample import SampleConfig
from inference.transformers_engine import TransformersEngine


def test_words_become_their_tokens(tokenizer: Any) -> None:
    small = build_tokenizer()
    assert bad_ids(small, [WAIT]) == (small.convert_tokens_to_ids(WAIT),)
    assert bad_ids(small, []) == ()
    [end, plain, spaced] = bad_ids(tokenizer, ["<|im_end|>", "="])
    assert tokenizer.convert_ids_to_tokens([end, plain, spaced]) == ["<|im_end|>", "=", "Ġ="]


@pytest.mark.parametrize("word", ["Wait Wait", "unheard", "é", ""])
def test_what_is_not_one_token_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"bad_words: .* is not one token"):
        bad_ids(build_tokenizer(), [word])


def test_bad_words_are_in_the_sampling(tokenizer: Any) -> None:
    options = GenerationOptions(model_name_or_path="m", bad_words=["<|im_end|>"], top_k=3)
    params = options.sampling(tokenizer)
    assert params.banned_ids == (tokenizer.eos_token_id,)
    assert (params.top_k, params.max_tokens) == (3, 1024)


def test_sample_never_writes_them(tiny_model: Path, tmp_path: Path) -> None:
    problems = [Problem(id=problem_id(str(i)), question=str(i), answer="1") for i in range(8)]
    engine = TransformersEngine.load(str(tiny_model), dtype="float32", batch_size=8)

    def texts(folder: str, words: list[str]) -> list[str]:
        config = SampleConfig(problems="", model_name_or_path="m", max_tokens=40, bad_words=words)
        attempts, _ = draw(config, problems, 3, tmp_path / folder, engine)
        return [attempt.completion.text for attempt in attempts]

    free = texts("free", [])
    vocabulary = engine.tokenizer.get_vocab()
    words = [word for word in "?;@#%&!^~|$_" if sum(word in token for token in vocabulary) == 1]
    often = max(words, key=lambda word: sum(word in text for text in free))
    assert any(often in text for text in free)
    assert not any(often in text for text in texts("banned", [often]))
    with pytest.raises(ValueError, match="bad_words: 'never seen'"):
        texts("bad", ["never seen"])
