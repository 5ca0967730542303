"""What counts as equal where people disagree: named options, each of which names its outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

from data.field_values import parse_mapping
from data.schema import Outcome

EXTRACTION_RULES = ("boxed", "answer_tag", "hashes", "answer_phrase", "choice", "bare_answer", "last_number")


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Options of `verify`. An outcome is `correct`, `wrong` or `unverifiable` (no reward, counted apart)."""

    extract: tuple[str, ...] = EXTRACTION_RULES
    """Where an answer may stand in a response; the first rule that finds one wins. `choice` (a letter at
    either end of the text) is for golds that are a letter, `last_number` the last resort."""
    several_answers: Outcome | None = None
    """A response that states several different final answers (boxes, answer tags, "the answer is"); null: the
    last one counts."""
    decimal_approximation: Outcome = "wrong"
    """The answer is a decimal that rounds an exact gold to 3 significant digits or more: 1.414 for
    \\sqrt{2}."""
    rounded_gold: Outcome = "correct"
    """The gold is a decimal of 4 significant digits or more and the answer an exact value that rounds to it:
    10/3 for 3.333."""
    unevaluated: Outcome = "unverifiable"
    """Arithmetic on plain numbers is left to do: 3-4+24 for 23. Powers, roots and factorials alone are
    values."""
    missing_unit: Outcome = "correct"
    """The gold has a unit and the answer has none."""
    missing_base: Outcome = "unverifiable"
    """The gold has the subscript of a base and the answer only its digits: 664 for 664_7."""
    percent_sign: Outcome = "correct"
    """Only one side has a percent sign: 28 or 0.28 for 28%."""
    list_order: Outcome = "correct"
    """The members of a list without brackets stand in another order: 2, 1 for 1, 2. Sets have no order,
    tuples always have one."""
    missing_brackets: Outcome = "correct"
    """One side is a tuple, the other a list without brackets in the same order: 1, 2 for (1, 2)."""
    letter_case: Outcome = "unverifiable"
    """Equal but for capital and small letters of variables: 2X for 2x."""

    def __post_init__(self) -> None:
        unknown = [rule for rule in self.extract if rule not in EXTRACTION_RULES]
        if unknown or not self.extract:
            raise ValueError(f"policy: extract: {unknown} is not among {', '.join(EXTRACTION_RULES)}")
        for field in fields(self)[1:]:
            value, allowed = getattr(self, field.name), get_args(Outcome)
            if value not in allowed and not (field.name == "several_answers" and value is None):
                raise ValueError(f"policy: {field.name}: {value!r} is not one of {', '.join(allowed)}")


DEFAULT_POLICY = Policy()


def parse_policy(options: Mapping[str, Any] | None) -> Policy:
    """A recipe's `policy:` mapping.

    Raises:
        ValueError: an unknown option (with the nearest) or outcome.
    """
    options = dict(options or {})
    rules = options.pop("extract", EXTRACTION_RULES)
    if not isinstance(rules, Sequence) or isinstance(rules, str):
        raise ValueError(f"policy: extract: {rules!r} is no list; write for example [boxed, last_number]")
    return parse_mapping(Policy, {**options, "extract": tuple(rules)}, "policy", "the policy")
