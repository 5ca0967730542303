"""Reading the answer out of a response: the first rule that finds one wins."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rewards.policy import EXTRACTION_RULES

LONGEST_STATED = 2_000
"""Characters read behind "the answer is"."""
MOST_STATED = 20
"""Final answers in words that are looked at, from the end."""


def extract_answer(text: str, rules: Sequence[str] = EXTRACTION_RULES) -> tuple[str, str]:
    """(answer, name of the rule that found it); ("", "no_answer") where there is none.

    A box that the end of the text cut off is not read by any rule.
    """
    answers, rule = extract_answers(text, rules)
    return (answers[-1] if answers else ""), rule


def extract_answers(text: str, rules: Sequence[str] = EXTRACTION_RULES) -> tuple[list[str], str]:
    """All final answers that the first successful rule finds, in their order: several boxes, else one answer.

    Boxes that only commas or "and" separate are one answer, a list.
    """
    text = text[: _open_box(text)]
    for rule in rules:
        found = _EXTRACTORS[rule](text)
        answers = [
            answer.strip() for answer in ([found] if isinstance(found, str) else found) if answer.strip()
        ]
        if answers:
            return answers, rule
    return [], "no_answer"


_BOX = re.compile(r"\\(?:boxed|fbox)")
_BRACES = re.compile(r"\\{1,2}(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def _boxes(text: str) -> list[tuple[int, int]]:
    """Where the contents of all closed \\boxed and \\fbox begin and end, in the order in which they close."""
    first = _BOX.search(text)
    if first is None:
        return []
    open_braces: list[int | None] = []  # where the content of a box begins; None for any other brace
    boxes = []
    for match in _BRACES.finditer(text, first.start()):
        token = match[0]
        if token == "}" and open_braces:
            begin = open_braces.pop()
            if begin is not None:
                boxes.append((begin, match.start()))
        elif token == "{":
            open_braces.append(None)
        elif len(token) > 2:
            open_braces.append(match.end())
    return boxes


def _open_box(text: str) -> int:
    """Where a box begins that is never closed; the length of the text where all are."""
    last = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    closed = any(begin > last for begin, _ in _boxes(text)) if last >= 0 else True
    return len(text) if closed or "{" not in text[last:] else last


_JOINT = re.compile(
    r"\}(?:[\s,;$]|\\q?quad|\\text\{\s*and\s*\}|\\[\[\]()]|\band\b)*\\{1,2}(?:boxed|fbox)\s*\{"
)


def _closed_boxes(text: str) -> list[str]:
    """Contents of the outermost boxes that are closed; neighbours in one list are joined by commas."""
    answers: list[str] = []
    previous_end = None
    for begin, end in _outermost(_boxes(text)):
        content = text[begin:end]
        if not content.strip():
            continue
        if (
            previous_end is not None
            and begin - previous_end < 60
            and _JOINT.fullmatch(text, previous_end, begin)
        ):
            answers[-1] += ", " + content
        else:
            answers.append(content)
        previous_end = end
    return answers


def _outermost(boxes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    outer: list[tuple[int, int]] = []
    for begin, end in boxes:
        while outer and outer[-1][0] > begin:
            outer.pop()
        outer.append((begin, end))
    return outer


def _answer_tags(text: str) -> list[str]:
    """Contents of all <answer>...</answer>."""
    return re.findall(r"<answer>((?:(?!</?answer>).)*)</answer>", text, re.DOTALL)


def _hashes(text: str) -> str:
    """GSM8K's `#### 42`, on the last line only: anywhere else `####` begins a Markdown heading."""
    last_line = text.rstrip().rpartition("\n")[2].strip()
    return last_line[4:] if last_line.startswith("####") and last_line[4:5] != "#" else ""


_PHRASE = re.compile(
    r"(?:\b(?:final answer is|the (?:correct )?answer is|answer\s*:)|^A:(?=\s))[\s:*]*",
    re.IGNORECASE | re.MULTILINE,
)


def _answer_phrases(text: str) -> list[str]:
    """What follows "Answer:", "the answer is" or "final answer is", each time: its formula or its
    sentence."""
    ends = [match.end() for match in _PHRASE.finditer(text)]
    return [_stated(text[end : end + LONGEST_STATED]) for end in ends[-MOST_STATED:]]


def _stated(text: str) -> str:
    line = text.partition("\n")[0]
    if line.startswith("$"):
        formula = line.lstrip("$").partition("$")
        if formula[1]:
            return formula[0]
    return re.split(r"\.(?:\s|$)", line, maxsplit=1)[0]


def _bare_answer(text: str) -> str:
    """A response that is nothing but an answer: one short line, without words beside its digits."""
    line = text.strip()
    if len(line) > 100 or "\n" in line:
        return ""
    words = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", line)
    return line if not words or not re.search("[0-9]", line) else ""


_NUMBER_IN_TEXT = re.compile(
    r"(?<![A-Za-z0-9_^.,])[-\u2212+]?(?:[0-9]+(?:[.,][0-9]+)*|\.[0-9]+)(?:/[0-9]+)?%?"
)
_FORMULA_MARKS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))


def _last_number(text: str) -> str:
    """Last number of the text, or the whole formula that it stands in ("\\frac{3}{4}", not "4")."""
    last = max(_NUMBER_IN_TEXT.finditer(text), key=re.Match.start, default=None)
    if last is None:
        return ""
    for opening, closing in _FORMULA_MARKS:
        end = text.rfind(closing)
        start = text.rfind(opening, 0, max(end, 0))
        if 0 <= start < last.start() < end:
            return text[start + len(opening) : end]
    return last[0]


def _choice_letter(text: str) -> str:
    """The letter of a choice at the begin or the end of the text: "D. It cannot be A", "I think it is
    (B)."."""
    begin = re.match(r"\s*\(?([A-J])(?:[.):]|\s*$)", text)
    if begin and "\n" not in text.strip():
        return begin[1]
    match = re.search(r"(?:^|\s|\()([A-J])\)?\W*$", text)
    return match[1] if match else ""


_EXTRACTORS: dict[str, Callable[[str], str | list[str]]] = {
    "boxed": _closed_boxes,
    "answer_tag": _answer_tags,
    "hashes": _hashes,
    "answer_phrase": _answer_phrases,
    "choice": _choice_letter,
    "bare_answer": _bare_answer,
    "last_number": _last_number,
}


def gold_answer(gold: str) -> str:
    """The gold without its box, and the last line of a solution of GSM8K. Boxes that words separate stay as
    text."""
    boxes = _closed_boxes(gold) if "box" in gold else []
    return boxes[0] if len(boxes) == 1 else _hashes(gold) or gold
