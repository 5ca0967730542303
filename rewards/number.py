"""Numbers as answers write them: integers, decimals, fractions, mixed numbers, percentages, scientific
notation, thousands separators, units. All exact."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from data.schema import Outcome
from rewards.normalise import NUMBER_WORD
from rewards.policy import Policy

LONGEST_NUMBER = 1_000
"""Characters; a longer number is compared as a string."""
LARGEST_EXPONENT = 1_000
"""Absolute value; 1e1001 is compared as a string."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    value: Fraction
    half_step: Fraction
    """Half a unit in the last decimal place as written; 0 for integers and fractions."""
    digits: int
    """Significant digits of a decimal, trailing zeros not counted; 0 for integers and fractions."""
    percent: bool
    unit: str


_INTEGER = re.compile("[+-]?[0-9]{1,18}")
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


def number(answer: str) -> Number | None:
    """The exact number that a normalised answer writes, with percent sign or unit; None for anything else."""
    return _number(answer) if len(answer) <= LONGEST_NUMBER else None


@lru_cache(maxsize=8192)
def _number(answer: str) -> Number | None:
    if _INTEGER.fullmatch(answer):
        return Number(value=Fraction(int(answer)), half_step=Fraction(0), digits=0, percent=False, unit="")
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
    return Number(value=value, half_step=half_step, digits=digits, percent=tail == "%", unit=unit)


def _is_unit(tail: str) -> bool:
    """Whether a number followed by this text is that number of something: a measure, or things ("18 apples").

    Refused are words that change the number: "3 million", "2 more", "5 cents" (which may be compared with
    dollars).
    """
    if _MEASURES.fullmatch(tail):
        return True
    return bool(_THINGS.fullmatch(tail)) and not _NOT_THINGS.search(tail) and not NUMBER_WORD.search(tail)


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


_TRAILING_MEASURE = re.compile(rf"(?<=[}})0-9 ])(?<!\\[a-z]) ?{_MEASURE}(?:[ /]{_MEASURE})*$")


def without_unit(answer: str) -> tuple[str, str]:
    """(expression, measure at its end): "8\\sqrt{3} inches" -> ("8\\sqrt{3}", "inches")."""
    match = _TRAILING_MEASURE.search(answer)
    return (answer[: match.start()], match[0].strip()) if match and match.start() else (answer, "")


def is_decimal_comma(gold: str, answer: str) -> bool:
    """Whether the answer is the gold with a comma for its decimal point: 2,74 and 2.74."""
    return bool(re.fullmatch(r"[+-]?[0-9]+,[0-9]+", answer)) and answer.replace(",", ".") == gold


def compare_numbers(gold: Number, answer: Number, policy: Policy) -> tuple[Outcome, str]:
    """Equal is exactly equal. Where a decimal is a rounding of the other number, 9 significant digits or more
    are enough; with fewer the policy decides.

    A number without a unit is in the unit that the question asked for. The same number in two different
    measures is wrong; other numbers in two different units are not converted.
    """
    if gold.percent != answer.percent:
        percent, other = (gold, answer) if gold.percent else (answer, gold)
        same = other.value in (percent.value, percent.value / 100)
        return (policy.percent_sign, "percent_sign") if same else ("wrong", "number")
    if gold.unit and answer.unit and gold.unit != answer.unit:
        measures = all(_MEASURES.fullmatch(number.unit) for number in (gold, answer))
        wrong = measures and gold.value == answer.value != 0
        return ("wrong", "unit") if wrong else ("unverifiable", "undecided")
    if gold.value == answer.value:
        if gold.unit and not answer.unit:
            return policy.missing_unit, "number" if policy.missing_unit == "correct" else "missing_unit"
        return "correct", "number"
    of_gold, of_answer = rounding_digits(gold, answer.value), rounding_digits(answer, gold.value)
    if max(of_gold, of_answer) >= 9:
        return "correct", "rounding"
    if of_gold >= 4 and not answer.digits:
        return policy.rounded_gold, "rounding"
    return (policy.decimal_approximation, "rounding") if of_answer >= 3 else ("wrong", "number")


def rounding_digits(decimal: Number, exact: Fraction) -> int:
    """Significant digits of `decimal` where it is `exact` rounded or cut off, else 0.

    From 15 digits on a relative error of 4e-16, twice the precision of binary64, counts as rounding too,
    except between integers.
    """
    error = abs(decimal.value - exact)
    cut_off = error < 2 * decimal.half_step and abs(exact) > abs(decimal.value) and exact * decimal.value > 0
    binary = decimal.digits >= 15 and not decimal.value.denominator == exact.denominator == 1
    tolerance = max(decimal.half_step, abs(exact) * 4 / 10**16 if binary else 0)
    return decimal.digits if cut_off or error <= tolerance else 0


def rounds_to(decimal: Number, exact: Any | None) -> int:
    """Significant digits of `decimal` where a real number (Fraction or mpmath) rounds to it, else 0."""
    if exact is None:
        return 0
    if not isinstance(exact, Fraction):
        exact = Fraction(str(exact)) if abs(exact) < 10**30 else Fraction(0)
    return rounding_digits(decimal, exact)
