"""Language of a text: which language a line is in, what has none, and switches."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.language import SCRIPT_OF, language_share
from tests.data.languages import THINKING


@pytest.mark.parametrize("target", THINKING)
@pytest.mark.parametrize("written", THINKING)
def test_one_language(written: str, target: str) -> None:
    assert language_share("\n".join(THINKING[written]), target) == (1.0 if written == target else 0.0)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["de", "es", "fr", "zh", "ru", "ar"]),
    st.integers(0, 4),
    st.integers(0, 4),
    st.randoms(use_true_random=False),
)
def test_mixed_sentences(other: str, own: int, foreign: int, source: random.Random) -> None:
    lines = THINKING["en"][1:2] * own + THINKING[other][1:2] * foreign
    source.shuffle(lines)
    share = language_share("\n".join(lines), "en")
    if not lines:
        assert share is None
    else:
        assert share == pytest.approx(own / (own + foreign), abs=0.2)
        assert (share == 1, share == 0) == (foreign == 0, own == 0)


def test_a_switch_of_script_inside_a_line_counts() -> None:
    share = language_share("We add both sides, 因此答案是偶数, and so the sum is eight.", "en")
    assert share is not None
    assert 0.6 < share < 0.9
    hidden = language_share(
        "We add both sides and so the sum is eight. $x = 5 \\text{因此答案一定是偶数}$", "en"
    )
    assert hidden is not None
    assert hidden < 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "By Vieta's formulas, $abc = 5$.",
        "12 + 30 = 42\n2x = 7\nf(x) = sin(x) + cos(x)",
        "$$\\text{distance} = \\frac{speed}{time} \\cdot hours \\cdot minutes \\cdot seconds$$",
        "\\begin{align*}\nspeed times hours equals the distance\n\\end{align*}",
        "```python\nfor number in range(10):\n    print(number and number or number)\n```",
        "ABC = DEF, AB + BC = AC, x_1 y_2 \\alpha \\beta \\gamma \\leq \\infty \\cdot \\frac",
    ],
)
def test_text_without_language_is_not_judged(text: str) -> None:
    assert language_share(text, "en") is None


def test_price_signs_are_no_formula() -> None:
    assert (
        language_share("$5 bekommt er zurück, denn er hat zwei Birnen gekauft und $3 gespart.", "en") == 0.0
    )


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=300), st.sampled_from(sorted(SCRIPT_OF)))
def test_any_text_has_a_share_between_0_and_1(text: str, target: str) -> None:
    share = language_share(text, target)
    assert share is None or 0.0 <= share <= 1.0


def test_a_long_text_is_judged_evenly() -> None:
    lines = ["\n".join(THINKING[name][1:2] * 400) for name in ("en", "de")]
    assert language_share("\n".join(lines), "en") == pytest.approx(0.5, abs=0.06)


def test_worked_solutions_are_english(shared_data: Callable[[str], Path]) -> None:
    with shared_data("math/test.jsonl").open(encoding="utf-8") as lines:
        shares = [language_share(json.loads(line)["solution"], "en") for line, _ in zip(lines, range(300))]  # noqa: B905
    judged = [share for share in shares if share is not None]
    assert len(judged) > 250
    assert sum(judged) / len(judged) > 0.98


def test_unknown_target() -> None:
    with pytest.raises(ValueError, match="target: 'english' is not one of"):
        language_share("Let me think about this again.", "english")
