"""Language of a text: which language a line is in, what has none, and switches."""

# ruff: noqa: RUF001

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.language import SCRIPT_OF, language_share

THINKING = {
    "en": [
        "Let me think about this again.",
        "So we have 3 apples and 5 pears, which makes 8 in total.",
        "Therefore $x^2 + 3x$ must be even, since n = 2k.",
        "Hmm, let's check the second case: `print(sum(range(10)))`.",
    ],
    "de": [
        "Lass mich noch einmal darüber nachdenken.",
        "Also haben wir 3 Äpfel und 5 Birnen, das sind zusammen 8.",
        "Daher muss $x^2 + 3x$ gerade sein, denn n = 2k.",
        "Prüfen wir nun den zweiten Fall: `print(sum(range(10)))`.",
    ],
    "es": [
        "Déjame pensarlo otra vez.",
        "Entonces tenemos 3 manzanas y 5 peras, que suman 8.",
        "Por lo tanto $x^2 + 3x$ debe ser par, porque n = 2k.",
        "Veamos el segundo caso: `print(sum(range(10)))`.",
    ],
    "fr": [
        "Réfléchissons encore une fois.",
        "Nous avons donc 3 pommes et 5 poires, soit 8 au total.",
        "Donc $x^2 + 3x$ est forcément pair, car n = 2k.",
        "Voyons maintenant le deuxième cas : `print(sum(range(10)))`.",
    ],
    "zh": [
        "让我再想一想。",
        "所以我们有3个苹果和5个梨，一共8个。",
        "因此 $x^2 + 3x$ 一定是偶数，因为 n = 2k。",
        "现在看第二种情况：`print(sum(range(10)))`。",
    ],
    "ja": [
        "もう一度考えてみましょう。",
        "りんごが3個と梨が5個あるので、合計8個です。",
        "したがって $x^2 + 3x$ は偶数です、n = 2k だから。",
        "次に二番目の場合を調べます：`print(sum(range(10)))`。",
    ],
    "ru": [
        "Давайте подумаем об этом ещё раз.",
        "Значит, у нас есть 3 яблока и 5 груш, всего 8.",
        "Следовательно, $x^2 + 3x$ должно быть чётным, так как n = 2k.",
        "Теперь рассмотрим второй случай: `print(sum(range(10)))`.",
    ],
    "ar": [
        "دعني أفكر في هذا مرة أخرى.",
        "إذن لدينا 3 تفاحات و 5 كمثرى، أي 8 في المجموع.",
        "لذلك يجب أن يكون $x^2 + 3x$ زوجيا لأن n = 2k.",
        "لننظر الآن في الحالة الثانية: `print(sum(range(10)))`.",
    ],
    "ko": [
        "이것을 다시 한번 천천히 생각해 봅시다.",
        "사과가 3개, 배가 5개이므로 모두 8개입니다.",
        "따라서 $x^2 + 3x$ 는 짝수여야 합니다, n = 2k 이므로.",
        "이제 두 번째 경우를 살펴봅시다: `print(sum(range(10)))`.",
    ],
}


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
