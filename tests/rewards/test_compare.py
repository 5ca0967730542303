"""Comparing answers of several parts, expressions, and the options of the policy."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rewards.compare import compare_answers
from rewards.policy import Policy, parse_policy

CORRECT = {
    "expression": [
        (r"\sqrt{8}", r"2\sqrt2"),
        (r"\frac{x+2}{7}", r"\frac{x}{7}+\frac{2}{7}"),
        (r"\frac{\sqrt{30}}{8}", r"\frac{3\sqrt{5}+2\sqrt{15}}{8\sqrt{2}+4\sqrt{6}}"),
        (r"\frac1{\cos x}", r"\sec x"),
        (r"8(\sqrt[10]{2^{7}})", "2^{37/10}"),
        (r"\log_4 40", r"\frac{3}{2}+\log_4 5"),
        (r"\frac{\log 2}{\log 2-\log 3}", r"\frac{\ln 2}{\ln 2 - \ln 3}"),
        (r"I(0)e^{-\frac{t}{RC}}", r"I(0)e^{-\frac{1}{RC}t}"),
        (r"\frac{d !}{2 k(d-k) !}", r"\frac{d!}{2 (d-k)! k}"),
        (r"(1+i)^2", "2i"),
        (r"\ln(x^2)", r"2\ln x"),
        ("|x-1|", "|1-x|"),
        ("C_1e^{t}+C_2e^{-t}", "C_2/e^t+e^tC_1"),
        ("-2", r"\sqrt[3]{-8}"),
        ("315", r"\frac{7!}{16}"),
        (r"\binom{10}{3}", "120"),
        (r"8\sqrt{3}\text{ square inches}", r"8\sqrt3"),
        (r"2\frac{1}{3}\pi", r"\frac{7\pi}{3}"),
        (r"2\cos(\pit+\pi/3)", r"2\cos(\frac{\pi}{3}+\pi t)"),
        (r"(-8)^{2/3}", "4"),
        (r"e^{-\zeta t}\sqrt{1-\zeta^2}", r"\frac{\sqrt{1-\zeta\cdot\zeta}}{e^{t\zeta}}"),
    ],
    "list_order": [("1,3,2", "1, 2, 3"), ("-5,7", r"7 \text{ and } -5"), (r"\pm 2021", "-2021, 2021")],
    "list": [("0.1, 4", ".1, 4.0"), ("x=1,2", "x=1, x=2"), ("(p,q)=(3,2)", "p=3, q=2")],
    "set": [(r"\{x-1, x\}", r"\{x, x - 1\}"), ("8,4", r"\{4, 8\}")],
    "tuple": [("(1,\\frac{9}{2})", "(1,4.5)"), ("(1,2,3)", "[1,2,3]")],
    "matrix": [
        (
            r"\begin{pmatrix} 1 & 0.5 \\ 1/3 & 4 \end{pmatrix}",
            r"\begin{bmatrix} 1 & 1/2 \\ 1/3 & 4 \end{bmatrix}",
        )
    ],
    "interval": [
        (r"x \ge \frac{1}{2}", r"\{\frac{1}{2}\}\cup(\frac{1}{2},\infty)"),
        (r"[-2,7]", r"-2 \le x \le 7"),
        (r"x \ne -\frac{3}{2}", r"(-\infty,-\frac{3}{2})\cup(-\frac{3}{2},\infty)"),
        (r"1\leq|z|\leq \frac{3}{2}", r"z \in [-\frac{3}{2}, -1] \cup [1, \frac{3}{2}]"),
        (r"(-\infty,-5)", "k<-5"),
        (r"\mathbb{R}\setminus\{0,1\}", r"(-\infty,0)\cup(0,1)\cup(1,\infty)"),
        ("x<1 or x>2", r"(2,\infty)\cup(-\infty,1)"),
        ("5 > x", "x < 5"),
    ],
    "relation": [
        ("2(x-1)-x+2>4", "x>4"),
        (r"34x+45y-20z+100=0", r"-34x-45y+20z-100=0"),
        (r"x^2/4 + y^2/3 = 1", r"x^2/16 + y^2/12 = 1/4"),
        ("x+y<3", "3>y+x"),
    ],
    "assignment": [
        ("81", "(x+y)^2=81"),
        ("7", r"\frac{28}{4}=7"),
        ("|AB|=1", "1"),
        (r"\frac{NO}{BO}=\frac{1}{\sqrt{6}}", r"\frac{1}{\sqrt{6}}"),
        ("f(x)=1+x", "f(y) = y+1"),
        (r"x = 1/3", r"x = 5+5+1 = 1/3 \approx 11"),
        ("11", r"x\approx11"),
        ("V_{1}:V_{2}=11:21", "22:42"),
    ],
    "ratio": [("11:9", r"\frac{11}{9}"), ("2:4:6", "1:2:3")],
    "missing_brackets": [(r"\frac{1}{3},-2,5", r"\left(\frac{1}{3}, -2, 5\right)")],
    "percent_sign": [("28%", "28"), ("62.5%", "0.625")],
    "decimal_comma": [("2.74", "2,74")],
    "rounding": [
        ("125.663", r"40\pi"),
        ("3.333", r"\frac{10}{3}"),
        ("0.8660254037844386", r"\frac{\sqrt3}{2}"),
    ],
    "sentence": [
        ("52", "So the perimeter is 4 * 13 = 52 units."),
        ("20", "It should charge $20 for the book"),
    ],
}
WRONG = {
    "expression": [
        ("x+1", "x+2"),
        (r"\alpha", r"\frac{\alpha}{p}"),
        (r"-1-\sqrt{3}", r"-1-\sqrt{3}i"),
        ("x", r"\sqrt{x^2}"),
        ("|x|", "x"),
        ("1", "1+10^{-70}"),
        (r"8\pi", r"18\pi"),
        (r"\frac{37}{4}m", r"\frac{37}{4m}"),
        (r"\frac{2016}{2017^{2}}", r"\frac{1}{2018}"),
        ("2x", "2"),
    ],
    "list": [
        ("5,15", "515"),
        ("1,3", "1"),
        ("2", r"2+\sqrt3, 2-\sqrt3"),
        ("10879", "10879, -10879"),
        ("1,2", "1,3"),
    ],
    "tuple": [("(1,2)", r"\{1,2\}"), ("(1,2)", "(2,1)"), ("(1,(2,3))", "(1,(2,4))")],
    "interval": [("(-3,2)", "[-3,2]"), ("a > 2", "a<2"), (r"[0,\infty)", "x>0"), (r"(5,\infty)", r"x\ne5")],
    "matrix": [(r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}")],
    "relation": [("x+y<3", "x+y>3"), (r"x+y\le3", "x+y<3")],
    "unit": [("5 km", "5 cm")],
    "choice": [("A", "(A) and (B)")],
    "words": [("Friday", "Saturday")],
    "rounding": [(r"\sqrt{2}", "1.414"), (r"\frac{448}{15625}", "0.0287")],
}
UNDECIDED = [
    ("20x + 23y + 26z - 69 = 0", "0"),
    ("7 = 11a+c", "11a+c"),
    ("x - 3z = 0", "0"),
    (r"\log 2", r"\ln 2"),
    (r"\int_0^1 x\,dx", r"\frac{1}{2}"),
    ("x=5", "y=5"),
    (r"[\frac{1}{2},8]", r"\frac{1}{2},8"),
    ("9^{9^{9}}", "9^{9^9}+1"),
    (r"\sqrt{1+10^{-60}}", "1"),
    ("((((1,2))))", "[[[[1,2]]]]"),
]


def _cases(by_rule: dict[str, list[tuple[str, str]]]) -> list[tuple[str, str, str]]:
    return [(rule, gold, answer) for rule, pairs in by_rule.items() for gold, answer in pairs]


@pytest.mark.parametrize(("rule", "gold", "answer"), _cases(CORRECT))
def test_correct(rule: str, gold: str, answer: str) -> None:
    assert compare_answers(gold, answer) == ("correct", rule)


@pytest.mark.parametrize(("rule", "gold", "answer"), _cases(WRONG))
def test_wrong(rule: str, gold: str, answer: str) -> None:
    assert compare_answers(gold, answer) == ("wrong", rule)


@pytest.mark.parametrize(("gold", "answer"), UNDECIDED)
def test_left_to_algebra_or_undecided(gold: str, answer: str) -> None:
    assert compare_answers(gold, answer)[0] == "unverifiable"


@pytest.mark.parametrize(
    ("option", "gold", "answer"),
    [
        ("decimal_approximation", r"\sqrt{2}", "1.414"),
        ("rounded_gold", "3.333", r"\frac{10}{3}"),
        ("unevaluated", "23", "3-4+24"),
        ("missing_unit", "5 km", "5"),
        ("missing_unit", r"8\sqrt3\text{ cm}", r"8\sqrt3"),
        ("missing_base", "664_7", "664"),
        ("percent_sign", "28%", "0.28"),
        ("list_order", "1,2", "2,1"),
        ("missing_brackets", "(1,2)", "1,2"),
        ("letter_case", "2x^2", "2X^2"),
    ],
)
def test_every_option_of_the_policy_names_its_outcome(option: str, gold: str, answer: str) -> None:
    for outcome in ("correct", "wrong", "unverifiable"):
        assert compare_answers(gold, answer, parse_policy({option: outcome}))[0] == outcome


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "wrong"}, "the policy has no 'unit'"),
        ({"extract": "boxed"}, "extract: 'boxed' is no list"),
        ({"missing_unit": "maybe"}, "missing_unit: 'maybe' is not one of"),
        ({"extract": ["boxed", "guess"]}, "extract: .*guess"),
        ({"extract": []}, "extract"),
    ],
)
def test_policy_refuses_what_it_does_not_know(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_policy(options)
    assert parse_policy(None) == Policy()


NUMBERS = st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=10**4)


def _spellings(number: Fraction) -> list[str]:
    """Ways to write one number that say exactly that number."""
    top, bottom = number.numerator, number.denominator
    return [
        f"\\frac{{{top}}}{{{bottom}}}",
        f"{top}/{bottom}",
        f"x = {top}\\div{bottom}",
        f"\\frac{{{3 * top}}}{{{3 * bottom}}}",
        f"\\frac{{1}}{{{bottom}}}({top})",
        f"\\sqrt{{{top * top}}}/{bottom}" if top >= 0 else f"-\\frac{{\\sqrt{{{top * top}}}}}{{{bottom}}}",
    ]


@settings(max_examples=200)
@given(NUMBERS, NUMBERS, st.integers(0, 5), st.integers(0, 5))
def test_numbers_are_equal_exactly_when_they_are(first: Fraction, second: Fraction, i: int, j: int) -> None:
    gold, answer = _spellings(first)[i], _spellings(second)[j]
    outcome = compare_answers(gold, answer)[0]
    assert outcome != ("wrong" if first == second else "correct")
    assert compare_answers(gold, _spellings(first)[j])[0] != "wrong"


COEFFICIENTS = st.lists(st.integers(-9, 9), min_size=3, max_size=3)


@settings(max_examples=100)
@given(COEFFICIENTS, COEFFICIENTS)
def test_polynomials_are_equal_exactly_when_they_are(first: list[int], second: list[int]) -> None:
    def written(c: list[int]) -> str:
        return f"{c[0]}x^2{c[1]:+}x{c[2]:+}"

    def nested(c: list[int]) -> str:
        return f"x({c[0]}x{c[1]:+}){c[2]:+}"

    outcome = compare_answers(written(first), nested(second))[0]
    assert outcome == ("correct" if first == second else "wrong")


PIECES = st.sampled_from(
    [
        r"\frac{",
        r"\sqrt{",
        r"\sqrt[3]{",
        r"{",
        r"}",
        r"(",
        r")",
        r"[",
        r"]",
        r"\{",
        r"\}",
        r",",
        r";",
        r":",
        r"|",
        r"!",
        r"^",
        r"_",
        r"^{",
        r"-",
        r"+",
        r"=",
        r"<",
        r"\le",
        r"\in",
        r"\cup",
        r"\pm",
        r"\infty",
        r"\pi",
        r"e",
        r"i",
        r"x",
        r"2",
        r"9",
        r"0.5",
        r"10",
        r"\sin",
        r"\log",
        r"\binom{",
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        r"&",
        r"\\",
        r"\mathbb{R}",
        r"and",
        r"or",
        r"99999",
        r"^99",
        r"!!!",
        r"%",
        r"\text{",
        r"cm}",
    ]
)
ANSWERS = st.lists(PIECES, max_size=20).map("".join)


@settings(max_examples=500, deadline=None)
@given(ANSWERS, ANSWERS)
def test_no_text_raises(gold: str, answer: str) -> None:
    assert compare_answers(gold, answer)[0] in ("correct", "wrong", "unverifiable")
    assert compare_answers(gold, gold)[1] in ("string", "no_gold", "no_answer")


BOMBS = [
    "x!" * 200,
    "((x!)!)^{x!}" * 40,
    "{" * 400 + "}" * 400,
    "|" * 499,
    "2^" * 240 + "2",
    "9^{9^{9^{9}}}",
    "\\sqrt" * 90 + "2",
    "\\sin" * 100 + "x",
    ",".join(f"x^{{{n}}}!" for n in range(100)),
    "\\{" + ",".join(f"\\binom{{x+{n}}}{{y}}" for n in range(90)) + "\\}",
    "\\pm" * 300,
    "(" * 900 + "1" + ")" * 900,
    "\\begin{pmatrix}" * 60 + "1" + "\\end{pmatrix}" * 60,
    "x<" * 400 + "1",
    "(0,1)\\cup" * 150 + "(0,1)",
]


@pytest.mark.parametrize("bomb", BOMBS)
def test_work_is_bounded(bomb: str) -> None:
    start = time.process_time()
    assert compare_answers(bomb, f"{bomb}z")[0] != "correct"
    assert (
        compare_answers(bomb.replace("x", "a"), bomb.replace("x", "b").replace("9", "8") + "+1")[0]
        != "correct"
    )
    assert time.process_time() - start < 30  # seconds at worst; unbounded work: for ever


EXPRESSIONS = st.recursive(
    st.sampled_from(["2", "0", "0.5", "x", "y", "e", "i", r"\pi", "3", "10", r"\frac{1}{3}"]),
    lambda inner: (
        st.tuples(
            st.sampled_from([r"\sqrt{%s}", "(-%s)", "|%s|", "(%s)!", r"\sin(%s)", r"\ln(%s)"]), inner
        ).map(lambda pair: pair[0] % pair[1])
        | st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "^"]), inner).map(
            lambda parts: f"({parts[0]}){parts[1]}{{({parts[2]})}}"
        )
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@example("2", "(-(0)*{(i)})")
@example("(-1)^{3}", "2")
@given(EXPRESSIONS, EXPRESSIONS)
def test_no_expression_raises_and_none_differs_from_itself(first: str, second: str) -> None:
    assert compare_answers(first, f"({first})*1")[0] != "wrong"
    assert compare_answers(first, f"1+({first})")[0] != "correct"
    assert compare_answers(first, second)[0] in ("correct", "wrong", "unverifiable")
