# ruff: noqa: A005
"""Reward `code`: does the program in the response pass the tests?

The program runs in `rewards.sandbox`; what it printed or returned is compared here, outside. A test is an
input with the expected output, in one of these forms (a dataset column holds a list of them per row, or its
JSON as a string):

    {"input": "1 2\\n", "output": "3\\n"}                      the whole program, on stdin
    {"function": "add", "arguments": [1, 2], "expected": 3}   a function, or that method of a class Solution
    {"inputs": [...], "outputs": [...], "fn_name": "add"}     APPS, TACO, LiveCodeBench; fn_name is optional

Sources of the last form: hendrycks/apps@5dcfdf2:eval/testing_util.py (inputs and outputs as lists of lines,
expected values in a list of one) and
LiveCodeBench/LiveCodeBench@15808c7:lcb_runner/evaluation/testing_util.py (each line of an input is the JSON
of one argument).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

from data.thinking import thinking_format
from rewards.sandbox.isolation import ANY, STRONG
from rewards.sandbox.sandbox import Call, Limits, Run, Sandbox
from rewards.texts import Turn, splits

Scoring = Literal["binary", "fraction"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One input and what it must give."""

    input: str | Call
    expected: Any
    """The stdout, or the value that the call returns as JSON has it."""
    boxed: bool = False
    """Whether `expected` may also be a list that holds the value alone, as APPS writes it."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """Tests passed by the last ```python block of the response; 0 where there is none, None without tests.

    None as well where the sandbox could not start, which says nothing about the program. Logs the shares of
    both.
    """

    tells_right: ClassVar[bool] = True  # a reward of 1 means that the answer is right

    tests: str = "tests"
    """Dataset column with the tests of each problem."""
    scoring: Scoring = "binary"
    """binary: 1 when every test passes, otherwise 0; fraction: the share of tests that pass."""
    float_tolerance: float = 0.0
    """Relative or absolute difference at which two numbers are equal; 0 compares printed numbers as text."""
    thinking_format: str = "think_tags"
    """think_tags, answer_tags or s1: only the response behind the thinking is read."""
    thinking_prefilled: bool = False
    """Whether the chat template has already written the thinking's opening tag."""
    preamble: str = ""
    """Code in front of every program, such as the imports that LeetCode's solutions take for granted."""
    packages: bool = False
    """Whether programs may import the installed packages, such as numpy and sympy."""
    cpu_seconds: int = 6
    """Processor time per test."""
    wall_seconds: float = 12.0
    """Time per test, sleeping included."""
    program_seconds: float = 60.0
    """Time for all tests of a program; those that are left then fail."""
    memory_mib: int = 1024
    """Address space of a program."""
    output_kib: int = 1024
    """Longest stdout, stderr or result."""
    processes: int = 0
    """Programs that run at one time; 0 means one per processor."""
    accept_weak_isolation: bool = False
    """Whether limits alone will do where the system offers no isolation: programs then can read your
    files."""

    def __post_init__(self) -> None:
        thinking_format(self.thinking_format)
        if self.scoring not in get_args(Scoring):
            raise ValueError(f"scoring: {self.scoring!r} is not one of {', '.join(get_args(Scoring))}")
        if self.float_tolerance < 0:
            raise ValueError(f"float_tolerance: {self.float_tolerance} is negative; 0 compares exactly")
        self.sandbox  # noqa: B018

    @cached_property
    def sandbox(self) -> Sandbox:
        """Where the programs run."""
        return Sandbox(
            limits=Limits(
                cpu_seconds=self.cpu_seconds,
                wall_seconds=self.wall_seconds,
                program_seconds=self.program_seconds,
                memory_mib=self.memory_mib,
                output_kib=self.output_kib,
            ),
            packages=self.packages,
            processes=self.processes,
            levels=ANY if self.accept_weak_isolation else STRONG,
        )

    def __call__(self, *, completions: Sequence[Turn], **columns: Any) -> list[float | None]:
        if self.tests not in columns:
            raise ValueError(
                f"tests: the dataset has no column {self.tests!r}; its columns: {', '.join(sorted(columns))}"
            )
        responses = [
            split.response for split in splits(completions, self.thinking_format, self.thinking_prefilled)
        ]
        programs = [last_program(response) for response in responses]
        rows = [read_cases(value, row) for row, value in enumerate(columns[self.tests])]
        scores: list[float | None] = [0.0 if tests else None for tests in rows]
        judged = [i for i, tests in enumerate(rows) if tests and programs[i] is not None]
        jobs = [(f"{self.preamble}\n{programs[i]}", [test.input for test in rows[i]]) for i in judged]
        for i, runs in zip(
            judged, self.sandbox.run_many(jobs, stop_early=self.scoring == "binary"), strict=True
        ):
            scores[i] = None if runs is None else self.score(rows[i], runs)
        log_metric: Callable[[str, float], None] | None = columns.get("log_metric")
        if log_metric and scores:
            name = getattr(self, "__name__", "code")
            log_metric(f"{name}/unverifiable", scores.count(None) / len(scores))
            log_metric(f"{name}/no_program", programs.count(None) / len(programs))
        return scores

    def row_faults(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """For each row of the dataset why this reward cannot judge it, empty where it can."""
        faults = []
        for number, row in enumerate(rows):
            try:
                faults.append("" if read_cases(row.get(self.tests), number) else f"{self.tests}: no tests")
            except ValueError as error:
                faults.append(str(error))
        return faults

    def score(self, tests: Sequence[Case], runs: Sequence[Run]) -> float:
        """Score of one program, from its runs; tests beyond the last run have failed."""
        passed = sum(passes(test, run, self.float_tolerance) for test, run in zip(tests, runs, strict=False))
        return float(passed == len(tests)) if self.scoring == "binary" else passed / len(tests)


_FENCE = re.compile(r"[ \t]*```[ \t]*([A-Za-z0-9_+-]*)[^`\n]*")


def last_program(response: str) -> str | None:
    """The last ```python (or py, python3) block that is closed; None where there is none."""
    program, begin = None, None
    lines = response.replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines):
        fence = _FENCE.fullmatch(line)
        if fence is None:
            continue
        if fence[1]:
            begin = number + 1 if fence[1].lower() in ("python", "python3", "py") else None
        elif begin is not None:
            program, begin = "\n".join(lines[begin:number]), None
    return program


# ---------------------------------------------------------------- tests


def read_cases(value: Any, row: int = 0) -> list[Case]:
    """The tests of one problem; none for None, an empty string or an empty list.

    Raises:
        ValueError: not one of the forms above.
    """
    try:
        tests = json.loads(value) if isinstance(value, str) and value else value or []
        if isinstance(tests, dict):
            return _paired_cases(tests)
        return [_single_case(test) for test in tests]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"tests, row {row}: {error}; a test is {{'input', 'output'}} or {{'function', 'arguments', "
            "'expected'}, or all of them are {'inputs', 'outputs'} with an optional 'fn_name'"
        ) from error


def _single_case(test: dict[str, Any]) -> Case:
    if not isinstance(test, dict):
        raise TypeError(f"{test!r} is not a mapping")
    if test.get("testtype") not in (None, "stdin"):
        raise ValueError(f"testtype {test['testtype']!r} is only read as 'inputs', 'outputs' and 'fn_name'")
    if test.get("function"):
        if not isinstance(test["arguments"], list):
            raise TypeError(f"arguments is not a list: {str(test)[:100]}")
        return Case(input=Call(test["function"], test["arguments"]), expected=_as_json(test["expected"]))
    if not isinstance(test["input"], str) or not isinstance(test["output"], str):
        raise TypeError(f"input and output are not both strings: {str(test)[:100]}")
    return Case(input=test["input"], expected=test["output"])


def _paired_cases(tests: dict[str, Any]) -> list[Case]:
    pairs = zip(tests["inputs"], tests["outputs"], strict=True)
    if not tests.get("fn_name"):
        return [Case(input=_lines(given), expected=_lines(expected)) for given, expected in pairs]
    made = []
    for given, expected in pairs:
        if isinstance(given, str):
            given = [json.loads(line) for line in given.split("\n") if line.strip()]
            expected = json.loads(expected) if isinstance(expected, str) else expected
        call = Call(tests["fn_name"], list(given))
        made.append(Case(input=call, expected=_as_json(expected), boxed=True))
    return made


def _lines(text: Any) -> str:
    """APPS keeps some inputs and outputs as a list of lines."""
    return "\n".join(map(str, text)) if isinstance(text, list) else str(text)


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


# ---------------------------------------------------------------- comparing


def passes(test: Case, run: Run, tolerance: float = 0.0) -> bool:
    """Whether a run gave what its test expects. A program that failed passes nothing, whatever it printed."""
    if run.status != "ok":
        return False
    if isinstance(test.input, str):
        return same_output(test.expected, run.stdout, tolerance)
    try:
        returned = json.loads(run.result)
    except (ValueError, RecursionError):
        return False
    if test.boxed and isinstance(test.expected, list) and len(test.expected) == 1:
        return same_value(test.expected, returned, tolerance) or same_value(
            test.expected[0], returned, tolerance
        )
    return same_value(test.expected, returned, tolerance)


def same_output(expected: str, printed: str, tolerance: float = 0.0) -> bool:
    """Whether all lines are equal, but for white space at the end of a line and empty lines at the end of the
    text.

    With a tolerance, words that both are numbers may differ by it, and so may the space between words.
    """
    pair = [[line.rstrip() for line in text.rstrip().split("\n")] for text in (expected, printed)]
    if pair[0] == pair[1] or tolerance == 0 or len(pair[0]) != len(pair[1]):
        return pair[0] == pair[1]
    return all(_close(first.split(), second.split(), tolerance) for first, second in zip(*pair, strict=True))


def _close(expected: list[str], printed: list[str], tolerance: float) -> bool:
    if len(expected) != len(printed):
        return False
    return all(a == b or _close_numbers(a, b, tolerance) for a, b in zip(expected, printed, strict=True))


def _close_numbers(expected: str, printed: str, tolerance: float) -> bool:
    try:
        return math.isclose(float(expected), float(printed), rel_tol=tolerance, abs_tol=tolerance)
    except ValueError:
        return False


def same_value(expected: Any, returned: Any, tolerance: float = 0.0) -> bool:
    """Whether two JSON values are equal: 1 and 1.0 are, true and 1 are not."""
    if isinstance(expected, bool) or isinstance(returned, bool):
        return expected is returned
    if isinstance(expected, int | float) and isinstance(returned, int | float):
        if expected == returned or tolerance == 0:
            return expected == returned
        try:
            return math.isclose(expected, returned, rel_tol=tolerance, abs_tol=tolerance)
        except OverflowError:
            return False
    if isinstance(expected, list) and isinstance(returned, list):
        pairs = zip(expected, returned, strict=False)
        return len(expected) == len(returned) and all(same_value(a, b, tolerance) for a, b in pairs)
    if isinstance(expected, dict) and isinstance(returned, dict):
        return expected.keys() == returned.keys() and all(
            same_value(value, returned[key], tolerance) for key, value in expected.items()
        )
    return expected == returned
