"""Quality rules: what each drops, what it must not drop, and s1's own rules beside ours."""

# ruff: noqa: RUF001

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import faults, quality
from data.schema import Attempt, Completion, Problem, problem_id

GERMAN = (
    "Ein Zug fährt um acht Uhr morgens in Berlin ab und kommt nach fünf Stunden in der Stadt München an, wo "
    "die Reisenden aussteigen. Wie schnell war der Zug auf der ganzen Strecke im Durchschnitt unterwegs?"
)
ENGLISH = (
    "A train leaves the city of Boston at eight in the morning and arrives in New York after five hours, "
    "where all the passengers get off. How fast was the train on average along the whole way?"
)


def trace(
    question: str = "What is 1 + 1?",
    answer: str = "2",
    solution: str = "",
    thinking: str = "One and one more make two.",
    response: str = "2",
    source: str = "",
) -> Attempt:
    completion = Completion(
        text="",
        thinking=thinking,
        response=response,
        finish_reason="stop",
        prompt_tokens=0,
        thinking_tokens=7,
        completion_tokens=9,
        model="m",
        seed=0,
    )
    problem = Problem(
        id=problem_id(question), question=question, answer=answer, solution=solution, source=source
    )
    return Attempt(problem=problem, index=0, completion=completion, verdict="correct", extracted=answer)


DROPPED: list[tuple[Callable[[str], str | None], str, str]] = [
    (
        faults.error_message,
        "Error code: 429 - {'error': {'message': 'Rate limit reached for gpt-4o'}}",
        "429",
    ),
    (faults.error_message, "openai.RateLimitError: You exceeded your current quota.", "RateLimitError"),
    (faults.error_message, "503 Service Unavailable", "503"),
    (faults.error_message, '{"error": {"code": 500, "message": "internal"}}', "error"),
    (
        faults.error_message,
        "The response was filtered due to the prompt triggering a content policy.",
        "filtered",
    ),
    (
        faults.error_message,
        "<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head></html>",
        "502",
    ),
    (faults.error_message, "As an AI language model, I cannot answer this question.", "refusal"),
    (faults.error_message, "I\u2019m sorry, but I can\u2019t assist with that request.", "refusal"),
    (faults.control_token, "The answer is 5.<|im_end|>", "<|im_end|>"),
    (faults.control_token, "<\uff5cUser\uff5c>What is 1 + 1?", "User"),
    (faults.control_token, "so 5.</think> 5", "</think>"),
    (faults.control_token, "[INST] What? [/INST]", "[INST]"),
    (faults.damage, "the caf\ufffd", "replacement character"),
    (faults.damage, "If $m+1=\x0crac{n-2}{3}$", "lost backslash"),
    (faults.damage, "$2 \times 3$", "lost backslash"),
    (faults.damage, "$\tan 5$ and $\tan(x)$", "lost backslash"),
    (faults.damage, "itâ€™s 5 Â°C", "mojibake"),
    (faults.damage, "the coeffi\x0ecients", "control character"),
    (faults.unclosed, "Compute\n$$\n\\int_1^2 x \\, dx.", "$$"),
    (faults.unclosed, "so \\boxed{\\frac{1}{2}", "boxed"),
    (faults.unclosed, "```python\nprint(1)\n", "fence"),
    (faults.unclosed, "\\begin{cases} x \\\\ y", "\\begin{cases}"),
    (faults.unclosed, "find \\( x + y.", "\\("),
    (faults.image, "See ![a](b.png)", "b.png"),
    (faults.image, "[asy] draw(); [/asy]", "[asy]"),
    (faults.image, 'Look <img src="a.png">', "<img"),
    (faults.image_mention, "In the diagram, $ABCD$ is a square.", "In the diagram"),
    (faults.image_mention, "The grid is coloured as shown below.", "shown below"),
    (faults.several_questions, "**p1.** What is 1?**p2.** What is 2?", "1, 2"),
    (faults.several_questions, "p12. Find x.\np13. Find y.", "12, 13"),
    (faults.several_questions, "**1.** Solve x = 1. **2.** Solve x = 2.", "1, 2"),
    (faults.several_questions, "Let a > 0.\n(1) Find a; (2) If b > a, find b.", "(1), (2)"),
    (faults.several_questions, "(a) How many? (b) Which of them are odd?", "(a), (b)"),
    (faults.several_questions, "$(\u2160)$ (I) Find f(1); (II) Prove that f(2) = 3.", "(I), (II)"),
]
KEPT: list[tuple[Callable[[str], str | None], str]] = [
    (
        faults.error_message,
        "A server answers with error code 429 when it gets too many requests. How many fit?",
    ),
    (faults.error_message, "Too many requests arrive at a desk, 500 an hour. How many are left?"),
    (faults.error_message, "500 requests come in. Find how many are left after 20 are served."),
    (faults.error_message, "I'm sorry, but I can't answer with certainty; still x = 5, so $x = 5$."),
    (faults.error_message, "Sorry, let me start again: 2 + 2 = 4."),
    (faults.error_message, "<html><head><title>My page</title></head></html>"),
    (faults.control_token, "The norm <|x|> is bounded, a < b, [INSTANCE] and <s>old</s> text"),
    (faults.damage, "Ça coûte 5 €, naïve – “über” α ≤ β, Δ = 3², AMANHÃ, GROẞ ÎLE, 中文，日本語"),
    (faults.damage, "def f():\n\tan = 1\n\tan example\r\nc\x0cPage two"),
    (faults.unclosed, "$x$$y$ and $$z$$ cost \\$5 and $5"),
    (faults.unclosed, "\\(a\\) \\[ b \\\\[2pt] c \\] \\boxed{\\{1, 2\\}} x \\in\\[-2, \\infty)"),
    (faults.unclosed, "```python\nd = {'a': '\\\\boxed{'}\n```\n`\\boxed{` is a command"),
    (faults.image, "The image of f is [0, 1]; as y is in [as] and ! [x](y)"),
    (faults.image_mention, "All points on the graph to the right by 2 and the figure 8."),
    (faults.image_mention, "Let the sequence be given below: find the image of the map f."),
    (faults.several_questions, "the map2. then p1. of the book"),
    (faults.several_questions, "**Bold** then 5, **A)** 3 **B)** 4 **C)** 5"),
    (faults.several_questions, "Which hold? (1) f is even. (2) f(1) = 2. (3) f is odd."),
    (
        faults.several_questions,
        "Rules:\n1) Choose a column from which to break one.\n2) Break it.\nHow many orders?",
    ),
    (faults.several_questions, "Find f(1) + f(2) from (1) and (2)."),
    (faults.several_questions, "Restore the digits of 2016****02**, **02** and 87*****8. How many ways?"),
]


@pytest.mark.parametrize(("fault", "text", "evidence"), DROPPED)
def test_a_fault_is_found(fault: Callable[[str], str | None], text: str, evidence: str) -> None:
    assert evidence in (fault(text) or "")


@pytest.mark.parametrize(("fault", "text"), KEPT)
def test_what_only_looks_like_a_fault_passes(fault: Callable[[str], str | None], text: str) -> None:
    assert fault(text) is None


@given(st.text("éüñ×°αβΔθ–’“”≤≥√→∞", min_size=1))
def test_text_read_in_the_wrong_encoding_is_found(text: str) -> None:
    undefined = b"\x81\x8d\x8f\x90\x9d"
    misread = "".join(
        bytes([b]).decode("latin-1" if b in undefined else "cp1252") for b in text.encode("utf-8")
    )
    assert "mojibake" in (faults.damage(f"x {misread}.") or "")
    assert faults.damage(text) is None


@given(st.text(max_size=300))
def test_every_rule_judges_any_text(text: str) -> None:
    row = trace(question=text, thinking=text, response=text, solution=text)
    for rule in quality.QUALITY_RULES.values():
        evidence = rule(row)
        assert evidence is None or evidence.strip()


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("missing", trace(answer=" ")),
        ("missing", trace(question="nan")),
        ("missing_solution", trace(solution="None")),
        ("error_message", trace(response="429 Too Many Requests")),
        ("damaged", trace(thinking="\ufffd")),
        ("control_tokens", trace(thinking="<|im_start|>")),
        ("unclosed", trace(response="\\boxed{2")),
        ("several_questions", trace("(1) Find a; (2) find b.")),
        ("answer_only", trace(thinking="The final answer is $\\boxed{2}$.")),
        ("too_large", trace(thinking="x" * 100_001)),
    ],
)
def test_a_named_rule_looks_at_the_right_texts(name: str, bad: Attempt) -> None:
    rule = quality.quality_rules([name])[name]
    assert rule(bad)
    assert rule(trace(solution="1 + 1 = 2")) is None


def test_answers_that_look_like_nothing_and_short_work_pass() -> None:
    assert quality.missing("answer")(trace(answer="None")) is None
    assert quality.missing("question", "answer")(trace(question="", answer="2")) == "no question"
    assert quality.answer_only(trace(thinking="1 + 1 = 2")) is None
    with pytest.raises(ValueError, match="missing: 'reply' is not one of"):
        quality.missing("reply")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "kept"), [(ENGLISH, True), (GERMAN, False), ("求函数的最大值并证明它的唯一性", False)]
)
def test_language(text: str, kept: bool) -> None:
    assert (quality.wrong_language("en")(trace(question=text)) is None) == kept
    assert (quality.wrong_language("en")(trace(thinking=text)) is None) == kept
    assert quality.wrong_language("en", 0.5, "question")(trace(thinking=text)) is None


def test_a_short_text_is_not_taken_for_another_language() -> None:
    question = "Convert 2 meters plus 3 centimeters plus 5 millimeters into meters."
    assert quality.wrong_language("en")(trace(question=question)) is None
    assert quality.wrong_language("en")(trace(question=f"{ENGLISH} {GERMAN} {GERMAN}"))
    with pytest.raises(ValueError, match="target: 'english'"):
        quality.wrong_language("english")


def test_size() -> None:
    rule = quality.too_large(max_line_characters=20, max_bytes=60)
    assert rule(trace(thinking="x" * 21)) == "thinking has a line of 21 > 20 characters"
    assert rule(trace(thinking="\n".join(["y" * 10] * 4))) is None  # 14 + 1 + 43 + 1 bytes
    assert rule(trace(thinking="\n".join(["é" * 10] * 4))) == "99 bytes > 60"


def test_names() -> None:
    assert set(quality.DEFAULT_RULES) <= quality.QUALITY_RULES.keys()
    assert [*quality.quality_rules(["image", "damaged"])] == ["image", "damaged"]
    with pytest.raises(ValueError, match="did you mean 'image'"):
        quality.quality_rules(["images"])


def test_s1_rules_over_fire_where_ours_do_not() -> None:
    for question, rule in (
        ("the map2. then", quality.s1_numbered_parts),
        ("**Bold** then 5", quality.s1_bold),
    ):
        assert rule(trace(question))
        assert faults.several_questions(question) is None
    meant = "**p1.** How many are red?\n**p2.** How many are blue?"
    assert all(rule(trace(meant)) for rule in (quality.s1_numbered_parts, quality.s1_bold))
    assert faults.several_questions(meant)


def test_s1_keeps_aime_questions_with_a_drawing() -> None:
    question = "p1. Find **x5** [asy] draw(); [/asy]"
    for name in ("s1_images", "s1_numbered_parts", "s1_bold"):
        rule = quality.QUALITY_RULES[name]
        assert rule(trace(question))
        assert rule(trace(question, source="qq8933/AIME_1983_2024")) is None
    assert quality.s1_images(trace("See ![Image](a.png)", source="qq8933/AIME_1983_2024"))


def test_worked_solutions_have_few_faults(shared_data: Callable[[str], Path]) -> None:
    rows = [json.loads(line) for line in shared_data("math/train.jsonl").open(encoding="utf-8")][:2000]
    traces = [trace(row["problem"], row["answer"], thinking=row["solution"]) for row in rows]
    for name in (
        "error_message",
        "damaged",
        "control_tokens",
        "unclosed",
        "several_questions",
        "answer_only",
    ):
        assert sum(quality.QUALITY_RULES[name](t) is not None for t in traces) <= 4, name


@pytest.mark.parametrize(
    ("name", "kept", "dropped", "evidence"),
    [
        (
            "long_paragraphs",
            "word " * 199 + "\n" + "word " * 200,
            "Short.\n" + "word " * 201,
            "201 > 200 words",
        ),
        ("code_blocks", "Use `f(x)` and ``` as a sign.", "So:\n  ```python\nprint(1)\n```", "'```python'"),
        ("code_blocks", "a ~ b, ~~gone~~", "~~~\nprint(1)\n~~~", "'~~~'"),
    ],
)
def test_r1_s_rules_on_readability(name: str, kept: str, dropped: str, evidence: str) -> None:
    rule = quality.quality_rules([name])[name]
    assert rule(trace(thinking=kept, response=dropped, question=dropped)) is None
    found = rule(trace(thinking=dropped))
    assert found is not None
    assert found.endswith(evidence)
    assert name not in quality.DEFAULT_RULES
