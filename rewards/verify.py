"""Answer verification: does a response give the gold answer?

`verify` reads the answer from a response (`extract_answer`) and compares it with the gold answer
(`compare_answers`) by rules that need no algebra: normalised strings, choice letters, exact numbers. What
these rules cannot decide, such as two different LaTeX expressions, is `unverifiable`, never `wrong`.

Nothing here raises on any text, and time is linear in its length: answers, numbers and exponents beyond a
stated size are compared as strings only.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from fractions import Fraction

from data.schema import Outcome
from rewards.extract import extract_answer, gold_answer

LONGEST_ANSWER = 10_000
"""Characters; a longer answer is compared as it stands."""
LONGEST_NUMBER = 1_000
"""Characters; a longer number is compared as a string."""
LARGEST_EXPONENT = 1_000
"""Absolute value; 1e1001 is compared as a string."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What verification says about one response."""

    outcome: Outcome
    extracted: str
    """The answer that was read from the response, empty where there is none."""
    rule: str
    """The rule that decided (string, choice, number, rounding, words), or why none did (undecided, no_gold,
    no_answer)."""
    seconds: float


def verify(gold: str, completion: str) -> Verdict:
    """Grade the response part of a completion (what follows the thinking) against the gold answer.

    No answer in the response is `wrong` (rule no_answer); an empty gold is `unverifiable` (no_gold). A number
    that was only picked as the last one in the text is never held against a gold that is not a number.
    """
    start = time.perf_counter()
    answer, found_by = extract_answer(completion)
    gold = gold_answer(gold)
    outcome, rule = compare_answers(gold, answer)
    if outcome == "wrong" and found_by == "last_number" and _number(_named(_normalise(gold))[1]) is None:
        outcome, rule = "unverifiable", "undecided"
    return Verdict(outcome=outcome, extracted=answer, rule=rule, seconds=time.perf_counter() - start)


def compare_answers(gold: str, answer: str) -> tuple[Outcome, str]:
    """(outcome, rule) of two bare answers; the first rule that decides wins.

    Two numbers that differ are wrong. A number against ordinary words ("no solution") is wrong; against what
    could denote a number ("\\sqrt{2}", "seven", "1, 2") it is undecided, as are two different expressions.
    """
    gold, answer = _normalise(gold), _normalise(answer)
    if not gold:
        return "unverifiable", "no_gold"
    if not answer.strip("_?"):
        return "wrong", "no_answer"
    if gold == answer or _fold(gold) == _fold(answer):
        return "correct", "string"
    choices = _choice(gold), _choice(answer)
    if None not in choices:
        return "correct" if choices[0] == choices[1] else "wrong", "choice"

    (gold_name, gold_value), (answer_name, answer_value) = _named(gold), _named(answer)
    if not gold_name or not answer_name or gold_name == answer_name:
        gold, answer = gold_value, answer_value
    if gold == answer:
        return "correct", "string"
    numbers = _number(gold), _number(answer)
    if numbers[0] and numbers[1]:
        return _compare_numbers(numbers[0], numbers[1])
    if (numbers[0] and _is_words(answer)) or (numbers[1] and _is_words(gold)):
        return "wrong", "words"
    if any({_fold(gold), _fold(answer)} == pair for pair in ({"yes", "no"}, {"true", "false"})):
        return "wrong", "words"
    return "unverifiable", "undecided"


def canonical_answer(answer: str) -> str:
    """Key under which equal answers are grouped in a majority vote.

    Numbers become a reduced fraction ("0.50" -> "1/2", "1,200 km" -> "1200", "50%" -> "50%"), choices their
    letter, everything else its normalised string. Units are dropped: all votes answer one question.
    """
    answer = _named(_normalise(answer))[1]
    number = _number(answer)
    if number:
        return f"{number.value}{'%' if number.percent else ''}"
    return _choice(answer) or _fold(answer)


# ---------------------------------------------------------------- normalised strings

_WRAPPER = r"\\(?:boxed|fbox|mbox|text(?:bf|it|rm|normal)?|math(?:rm|bf|it))\s*\{([^{}]*)\}"
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[\u2212\u2013\u2010\u2011\ufe63\uff0d]", "-"),
        ("π", r"\\pi "),
        ("∞", r"\\infty "),
        (r"\u00d7", r"\\times "),
        (r"\\\$|[£€]|\b(?:dollars?|USD)\b", ""),  # currency; cents are left alone
        (r"(?<!\\)\\[()\[\]]|\$", ""),  # formula marks
        (r"(?<=[0-9])(?:\\,|\{,\}|,\\!)\s*(?=[0-9]{3}(?![0-9]))", ","),  # thousands: 1\,000 1{,}000 1,\!000
        (r"(?<!\\)\\[!,;: ]|~|\\q?quad(?![A-Za-z])|\\displaystyle(?![A-Za-z])", " "),
        (r"\\(?:left|right)(?![A-Za-z])", ""),
        (_WRAPPER, r"\1"),
        (_WRAPPER, r"\1"),  # \boxed{\text{A}}
        (r"\^\{\\circ\}|\^\\circ(?![A-Za-z])|°|\bdegrees?\b", ""),
        (r"\\%|\bpercent(?:age)?\b", "%"),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s*([0-9])\s*([0-9])(?![0-9])", r"\\frac{\1}{\2}"),
        (r"\\frac\s*([0-9])\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*\{([^{}]*)\}\s*([0-9])(?![0-9])", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s*([0-9A-Za-z])(?![0-9A-Za-z])", r"\\sqrt{\1}"),
        (r"([_^])\{([0-9A-Za-z])\}(?![0-9A-Za-z])", r"\1\2"),
        (r"\\leq?(?:slant)?(?![A-Za-z])|≤|<=", r"\\le "),
        (r"\\geq?(?:slant)?(?![A-Za-z])|≥|>=", r"\\ge "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\s+", " "),
        # Spaces mean something only between two words, two numbers, or a number and a word.
        (
            r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])|(?<=[0-9]) (?=[A-Za-z](?![A-Za-z]))|(?<=[A-Za-z]) (?=[0-9])",
            "",
        ),
        (r"^[*`]+|[*`]+$", ""),
        (r"(?<!\.)[.,;:]$", ""),
    )
)


_PLAIN = re.compile("[+-]?[0-9A-Z]+")  # nothing to rewrite


def _normalise(answer: str) -> str:
    """The answer without what only concerns its typesetting."""
    if len(answer) > LONGEST_ANSWER or _PLAIN.fullmatch(answer):
        return answer.strip()
    for pattern, replacement in _REWRITES:
        answer = pattern.sub(replacement, answer)
    return answer


_NAMED = re.compile(
    r"([A-Za-z](?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9]+\}))?(?:\([A-Za-z](?:,[A-Za-z])*\))?)=([^=]+)"
)


def _named(answer: str) -> tuple[str, str]:
    """(name, value) of "x=5" or "f(x)=x+1"; the name is empty where there is none."""
    match = _NAMED.fullmatch(answer)
    return (match[1], match[2]) if match else ("", answer)


_CHOICE = re.compile(r"\(?([A-E])\)?|\(([A-E])\)([^-+*/=^_].*|-[0-9].*)|([A-E])[.:)](.+)", re.DOTALL)


def _choice(answer: str) -> str | None:
    """Letter of a multiple-choice answer: "B", "(B)", "(B) Cecile", "B. Cecile", but not "(A) and (B)"."""
    match = _CHOICE.fullmatch(answer)
    if match is None or re.search(r"\b[A-E]\b", match[3] or match[5] or ""):
        return None
    return match[1] or match[2] or match[4]


_WORDS = re.compile(r"[A-Za-z'\"\u2019,.;:?()/ -]+")
_NUMBER_WORD = re.compile(
    r"\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thir|for?ty|fif|twen|hundred"
    r"|thousand|million|billion|trillion|half|halves|quarter|dozen|once|twice|single|double|triple|couple|pair"
    r"|pi\b|sqrt|root|square|cube|sin|cos|tan|sec|csc|cot|arc|log|ln\b|exp|alpha|beta|theta|phi"
    r"|nil\b|null\b|[ivxlcdm]{2,}\b)",
    re.IGNORECASE,
)


def _is_words(answer: str) -> bool:
    """Whether the answer is ordinary English words, none of which begins like a number or a function."""
    if len(answer) > LONGEST_NUMBER or not _WORDS.fullmatch(answer):
        return False
    return re.search("[A-Za-z]{3}", answer) is not None and not _NUMBER_WORD.search(answer)


def _fold(answer: str) -> str:
    """Words in lower case; anything else as it is, since X and x are two variables."""
    return answer.lower() if _is_words(answer) or answer in ("No", "NO") else answer


# ---------------------------------------------------------------- numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class _Number:
    value: Fraction
    half_step: Fraction
    """Half a unit in the last decimal place as written; 0 for integers and fractions."""
    digits: int
    """Significant digits of a decimal, trailing zeros not counted; 0 for integers and fractions."""
    percent: bool
    unit: str


_DECIMAL = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
_FRACTION = re.compile(
    rf"(?P<sign>[+-]?)(?:(?P<whole>[0-9]+(?= ?\\|[ ][0-9]+/)) ?)?"
    rf"(?:\\frac\{{(?P<top>[+-]?{_DECIMAL})\}}\{{(?P<bottom>[+-]?{_DECIMAL})\}}"
    rf"|(?P<over>{_DECIMAL})/(?P<under>{_DECIMAL}))"
)
_PARTS = (("top", "over"), ("bottom", "under"))
_SCIENTIFIC = re.compile(
    rf"(?P<mantissa>[+-]?{_DECIMAL})(?:[eE](?P<e>[+-]?[0-9]+)"
    r"|(?:\\times|\\cdot|\*) ?10\^(?:(?P<digit>[0-9]+)|\{(?P<power>[+-]?[0-9]+)\}))?"
)
_MEASURE = (
    r"(?:in|inch(?:es)?|ft|foot|feet|yards?|miles?|mph|(?:centi|kilo|milli)?met(?:er|re)s?|[mck]m|[mk]g"
    r"|(?:kilo)?grams?|pounds?|lbs?|ounces?|oz|tons?|ml|lit(?:er|re)s?|cups?|gallons?|sec(?:ond)?s?"
    r"|min(?:ute)?s?|hours?|hrs?|days?|weeks?|months?|years?|square|cubic|sq|per|units?)"
    r"(?:\^[23]|[²³])?(?![A-Za-z])"
)
_MEASURES = re.compile(rf" ?{_MEASURE}(?:[ /]{_MEASURE})*")
_THINGS = re.compile(" [a-z]{3,}(?: [a-z]+)*")
_NOT_THINGS = re.compile(
    r"\b(?:more|less|fewer|than|over|under|above|below|times|plus|minus|divided|mod|and|or|not|out|choose"
    r"|factorial|radian|cent|penn|[b-z]\b)"
)


def _number(answer: str) -> _Number | None:
    """The exact number that a normalised answer writes, with percent sign or unit; None for anything else."""
    if len(answer) > LONGEST_NUMBER:
        return None
    if answer.startswith("(") and answer.endswith(")"):
        answer = answer[1:-1]
    if answer.startswith("10^"):
        answer = "1*" + answer
    half_step, digits = Fraction(0), 0
    if match := _FRACTION.match(answer):
        value = _fraction_value(match)
    elif match := _SCIENTIFIC.match(answer):
        value = power = _power_of_ten(match)
        if power:
            mantissa = match["mantissa"].replace(",", "")
            value = Fraction(mantissa) * power
            if places := len(mantissa.partition(".")[2]):
                half_step, digits = power / (2 * 10**places), len(mantissa.strip("+-0.").replace(".", ""))
    else:
        return None
    tail = answer[match.end() :]
    if value is None or (tail not in ("", "%") and not _is_unit(tail)):
        return None
    unit = re.sub(r"(?<=ch)es\b|s\b", "", tail.removesuffix("%").strip())
    return _Number(value=value, half_step=half_step, digits=digits, percent=tail == "%", unit=unit)


def _is_unit(tail: str) -> bool:
    """Whether a number followed by this text is that number of something: a measure, or things ("18 apples").

    Refused are words that change the number: "3 million", "2 more", "5 cents" (which may be compared with
    dollars).
    """
    if _MEASURES.fullmatch(tail):
        return True
    return bool(_THINGS.fullmatch(tail)) and not _NOT_THINGS.search(tail) and not _NUMBER_WORD.search(tail)


def _fraction_value(match: re.Match[str]) -> Fraction | None:
    """Value of "3/4", "\\frac{3}{4}" or the mixed "1 3/4"; None for a zero below and for "2\\frac{7}{3}"."""
    top, bottom = (Fraction((match[a] or match[b]).replace(",", "")) for a, b in _PARTS)
    if bottom == 0:
        return None
    value = top / bottom
    if match["whole"]:
        if not 0 <= value < 1:
            return None
        value += int(match["whole"])
    return -value if match["sign"] == "-" else value


def _power_of_ten(match: re.Match[str]) -> Fraction | None:
    exponent = match["e"] or match["digit"] or match["power"] or "0"
    if len(exponent) > 5 or abs(int(exponent)) > LARGEST_EXPONENT:
        return None
    return Fraction(10) ** int(exponent)


def _compare_numbers(gold: _Number, answer: _Number) -> tuple[Outcome, str]:
    """Equal is exactly equal, except that a decimal may be a rounding of the other number: with 9 significant
    digits or more that is correct, with 3 to 8 it depends on what the question asked, so it is undecided.

    A percentage without its sign (28% and 28 or 0.28) and numbers in two different units are undecided too. A
    number without a unit is in the unit that the question asked for.
    """
    if gold.percent != answer.percent:
        percent, other = (gold, answer) if gold.percent else (answer, gold)
        same = other.value in (percent.value, percent.value / 100)
        return ("unverifiable", "undecided") if same else ("wrong", "number")
    if gold.unit and answer.unit and gold.unit != answer.unit:
        return "unverifiable", "undecided"
    if gold.value == answer.value:
        return "correct", "number"
    digits = max(_rounding_digits(gold, answer.value), _rounding_digits(answer, gold.value))
    if digits >= 9:
        return "correct", "rounding"
    return ("unverifiable", "undecided") if digits >= 3 else ("wrong", "number")


def _rounding_digits(decimal: _Number, exact: Fraction) -> int:
    """Significant digits of `decimal` where it is `exact` rounded, else 0.

    From 15 digits on a relative error of 4e-16, twice the precision of binary64, counts as rounding too,
    except between integers.
    """
    tolerance = decimal.half_step
    if decimal.digits >= 15 and not decimal.value.denominator == exact.denominator == 1:
        tolerance = max(tolerance, abs(exact) * 4 / 10**16)
    return decimal.digits if abs(decimal.value - exact) <= tolerance else 0
