"""Language consistency: what of a completion is judged, and the edges of the reward."""

from __future__ import annotations

import pytest

from rewards.language import Language
from tests.data.languages import THINKING


def test_only_the_thinking_counts() -> None:
    german, english = ("\n".join(THINKING[name]) for name in ("de", "en"))
    completions = [
        f"<think>\n{english}\n</think>\n\n{german}",
        f"<think>\n{german}\n</think>\n\n{english}",
        f"<think>\n \n</think>\n\n{english}",
        english,
        f"<think>\n{english}",
    ]
    assert Language()(completions=completions) == [1.0, 0.0, 0.0, 0.0, 1.0]
    messages = [[{"role": "assistant", "content": text}] for text in completions]
    assert Language(target="de")(completions=messages) == [0.0, 1.0, 0.0, 0.0, 0.0]


def test_prefilled_start_of_the_thinking() -> None:
    cut_off = "\n".join(THINKING["en"])
    assert Language(thinking_prefilled=True)(completions=[cut_off]) == [1.0]
    assert Language(thinking_format="s1", thinking_prefilled=True)(completions=[cut_off]) == [1.0]


def test_thinking_without_language_is_not_judged() -> None:
    assert Language()(completions=["<think>\n1 + 1\n</think>\n\n2"]) == [None]
    assert Language()(completions=["<think>\n$x = 5$\n</think>\n\n2"]) == [None]


def test_unknown_target_and_format() -> None:
    with pytest.raises(ValueError, match="target: 'english' is not one of"):
        Language(target="english")
    with pytest.raises(ValueError, match="thinking_format"):
        Language(thinking_format="xml")
