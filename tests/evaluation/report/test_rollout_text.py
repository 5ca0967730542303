from __future__ import annotations

import re
import unicodedata

import pytest

from data.thinking import ANSWER_TAGS, FORMATS, S1, S1_STEPS, THINK_TAGS, ThinkingFormat
from evaluation.report.rollout_text import Span, completion_spans, plain_spans, visible


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
def test_spans_of_a_whole_completion(form: ThinkingFormat) -> None:
    text = form.render("I add.\nIt is 42.", "So \\boxed{42}.")
    spans = completion_spans(text, form, "42", 1000)
    assert "".join(span.text for span in spans) == text
    by_kind = {kind: "".join(s.text for s in spans if s.kind == kind) for kind in ("thinking", "answer")}
    assert "I add.\nIt is 42." in by_kind["thinking"]
    assert by_kind["answer"] == "42"  # not the one in the thinking
    assert not any(tag in span.text for span in spans if span.kind != "tag" for tag in form.tags)
    after = spans[spans.index(Span("answer", "42")) + 1 :]
    assert after[0].kind == "response"
    assert after[0].text.startswith("}.")


@pytest.mark.parametrize(
    ("form", "text", "spans"),
    [
        (THINK_TAGS, "<think>\nno end", [("tag", "<think>"), ("thinking", "\nno end")]),
        (THINK_TAGS, "no tag", [("response", "no tag")]),
        (THINK_TAGS, "", []),
        (THINK_TAGS, "a</think>b", [("thinking", "a"), ("tag", "</think>"), ("response", "b")]),
        (
            ANSWER_TAGS,
            "<answer>7</answer>",
            [("tag", "<answer>"), ("answer", "7"), ("tag", "</answer>")],
        ),
        (S1, "<|im_start|>think\na", [("tag", "<|im_start|>think"), ("thinking", "\na")]),
        (
            S1_STEPS,
            "<|im_start|>2 steps left\na",
            [("tag", "<|im_start|>"), ("thinking", "2 steps left\na")],
        ),
    ],
)
def test_spans_of_broken_completions(form: ThinkingFormat, text: str, spans: list[tuple[str, str]]) -> None:
    assert completion_spans(text, form, "7", 1000) == spans


@pytest.mark.parametrize(
    ("text", "extracted", "at"),
    [
        ("7 then \\boxed{7} and 7", "7", 14),
        ("7 of 17 or 70", "7", 0),
        ("17", "7", None),
        ("it is 1/2", "1/2", 6),
        ("it is 0.50", "1/2", None),
        ("77 7", "7", 3),
    ],
)
def test_the_answer_is_the_last_one_that_stands_alone(text: str, extracted: str, at: int | None) -> None:
    spans = completion_spans(text, THINK_TAGS, extracted, 1000)
    found = [i for i, span in enumerate(spans) if span.kind == "answer"]
    assert [sum(len(span.text) for span in spans[:i]) for i in found] == ([] if at is None else [at])


def test_long_texts_are_cut_in_the_middle_with_the_number_of_characters() -> None:
    text = THINK_TAGS.render("a" * 5_000, "b" * 96 + " \\boxed{7}")
    spans = completion_spans(text, THINK_TAGS, "7", 400)
    (note,) = [span for span in spans if span.kind == "cut"]
    kept = "".join(span.text for span in spans if span.kind != "cut")
    assert len(kept) == 400
    assert f"{len(text) - 400:,} characters left out" in note.text
    assert kept == text[:300] + text[-100:]
    assert spans[-2:] == [("answer", "7"), ("response", "}")]
    assert [span.kind for span in plain_spans("x" * 400, 400)] == ["plain"]


def test_everything_unseen_is_spelled_out() -> None:
    text = "a\x1b[2J\x00\r\x7f\x9b\u200b\u202e\u2066\ufeff\u00ad\u2028\U000e0041\u3164\ue000b\n\tc"
    spans = plain_spans(text, 1000)
    assert [span.kind for span in spans] == ["plain", "odd", "plain", "odd", "plain"]
    assert spans[1].text == "␛"
    assert spans[3].text.startswith("␀␍⟨U+007F⟩⟨U+009B⟩⟨U+200B⟩⟨U+202E⟩")
    assert spans[4].text == "b\n\tc"
    assert visible("a\nb\u202ec") == "a⏎b⟨U+202E⟩c"
    for code in range(0x110000):
        if unicodedata.category(chr(code)) in ("Cc", "Cf") and chr(code) not in "\n\t":
            assert re.fullmatch(r"⟨U\+[0-9A-F]{4,6}⟩|[␀-␟]", visible(chr(code)))
            assert chr(code) not in visible(chr(code))
