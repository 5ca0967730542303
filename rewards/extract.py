"""Reading the answer out of a response: the first rule that finds one wins."""

from __future__ import annotations

import re


def extract_answer(text: str) -> tuple[str, str]:
    """(answer, name of the rule that found it); ("", "no_answer") where there is none.

    A box that the end of the text cut off is not read by any rule.
    """
    text = text[: _open_box(text)]
    for rule, find in _EXTRACTORS.items():
        answer = find(text).strip()
        if answer:
            return answer, rule
    return "", "no_answer"


_BRACES = re.compile(r"\\{1,2}(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def _boxes(text: str) -> list[tuple[int, int]]:
    """Where the contents of all closed \\boxed and \\fbox begin and end, in the order in which they close."""
    open_braces: list[int | None] = []  # where the content of a box begins; None for any other brace
    boxes = []
    for match in _BRACES.finditer(text):
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


def _last_box(text: str) -> str:
    """Last box that is closed."""
    contents = (text[begin:end] for begin, end in reversed(_boxes(text)))
    return next((content for content in contents if content.strip()), "")


def _answer_tag(text: str) -> str:
    """Content of the last <answer>...</answer>."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return text[start + len("<answer>") : end] if start >= 0 else ""


def _hashes(text: str) -> str:
    """GSM8K's `#### 42`, on the last line only: anywhere else `####` begins a Markdown heading."""
    last_line = text.rstrip().rpartition("\n")[2].strip()
    return last_line[4:] if last_line.startswith("####") and last_line[4:5] != "#" else ""


_PHRASE = re.compile(r"\b(?:final answer is|the (?:correct )?answer is|answer\s*:)[\s:*]*", re.IGNORECASE)


def _answer_phrase(text: str) -> str:
    """What follows the last "Answer:", "the answer is" or "final answer is": its formula or its sentence."""
    end = max((match.end() for match in _PHRASE.finditer(text)), default=None)
    if end is None:
        return ""
    line = text[end:].partition("\n")[0]
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


_EXTRACTORS = {
    "boxed": _last_box,
    "answer_tag": _answer_tag,
    "hashes": _hashes,
    "answer_phrase": _answer_phrase,
    "bare_answer": _bare_answer,
    "last_number": _last_number,
}


def gold_answer(gold: str) -> str:
    """The gold without its box. With several boxes no single one is the gold, and the text stays whole."""
    boxes = _boxes(gold)
    return gold[slice(*boxes[0])] if len(boxes) == 1 else gold
