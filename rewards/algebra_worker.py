"""The last tier of answer comparison: math-verify on sympy, in a process of its own.

Started by `rewards.algebra` as `python -m rewards.algebra_worker SECONDS MEBIBYTES`. Reads one JSON pair a
line from stdin and writes one JSON decision a line to stdout. May be killed at any time.
"""

from __future__ import annotations

import cmath
import json
import os
import resource
import signal
import sys
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, parse, verify
from sympy.core.cache import clear_cache
from sympy.core.relational import Relational

_SLOW = (sympy.Integral, sympy.Limit, sympy.Product, sympy.Sum)
_LATEX = [LatexExtractionConfig(boxed_match_priority=0)]
PAIRS_BEFORE_CLEARING = 200
"""sympy keeps every expression that it has seen until its cache is cleared."""


def main() -> None:
    """Serve pairs until stdin is closed."""
    seconds, mebibytes = float(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (mebibytes << 20, mebibytes << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for the caller, who then closes stdin
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # kills, also inside C code, when nobody is left to do it
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    decide("1", "2")
    answers.write("ready\n")
    answers.flush()
    for count, line in enumerate(sys.stdin, 1):
        signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 1)
        outcome = decide(*json.loads(line))
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(outcome) + "\n")
        answers.flush()
        if count % PAIRS_BEFORE_CLEARING == 0:
            clear_cache()


def decide(gold: str, answer: str) -> str:
    """correct, wrong, or unverifiable where one of the two is nothing that sympy understands."""
    try:
        parsed = [_parse(text) for text in (gold, answer)]
        if None in parsed or _kind(parsed[0]) != _kind(parsed[1]):
            return "unverifiable"
        same_letters = parsed[0].free_symbols == parsed[1].free_symbols
        if _differ(*parsed):
            return "wrong" if same_letters else "unverifiable"
        equal = verify(
            *parsed, float_rounding=12, numeric_precision=30, timeout_seconds=None, raise_on_error=True
        )
    except Exception:  # sympy raises anything at all on hostile input; what it cannot compare is unverifiable
        return "unverifiable"
    return "correct" if equal else "wrong" if same_letters else "unverifiable"


def _parse(text: str) -> Any:
    """The one sympy object that the text writes; math-verify's fallback, the text itself, does not count."""
    found = parse(f"\\boxed{{{text}}}", _LATEX, fallback_mode="no_fallback", parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    return found[0] if found and not isinstance(found[0], str) else None


def _differ(gold: Any, answer: Any) -> bool:
    """Whether two scalars have different values somewhere: far cheaper to see than that they are equal."""
    if _kind(gold) != "scalar" or gold.has(*_SLOW) or answer.has(*_SLOW):
        return False
    for point in (sympy.Rational(577, 409), sympy.Rational(311, 499)):
        names = sorted(gold.free_symbols | answer.free_symbols, key=str)
        at = {name: point + sympy.Rational(index, 7) for index, name in enumerate(names)}
        values = [complex(side.subs(at).evalf(20)) for side in (gold, answer)]
        size = max(map(abs, values))
        if all(map(cmath.isfinite, values)) and abs(values[0] - values[1]) > 1e-6 * size:
            return True
    return False


def _kind(value: Any) -> str:
    """Sets, tuples, matrices, relations and scalars are never equal to each other here."""
    for kind in (sympy.Set, sympy.Tuple, sympy.MatrixBase, Relational):
        if isinstance(value, kind):
            return kind.__name__
    return "scalar"


if __name__ == "__main__":
    main()
