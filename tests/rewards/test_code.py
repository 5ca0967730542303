"""The code reward: which program is read, what passes, and what is nobody's fault."""

from __future__ import annotations

import json
import resource
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.code import Case, Code, last_program, passes, read_cases, same_output, same_value
from rewards.sandbox.isolation import SandboxError
from rewards.sandbox.sandbox import Call, Run

LINES = [{"input": "3\n", "output": "0\n1\n2\n"}, {"input": "1\n", "output": "0\n"}]
COUNT = "for i in range(int(input())): print(i)"


def code(**parameters: Any) -> Code:
    try:
        return Code(cpu_seconds=2, wall_seconds=4.0, **parameters)
    except SandboxError as error:
        pytest.skip(str(error))


def fenced(program: str) -> str:
    return f"<think>\nhm\n</think>\n\nHere:\n```python\n{program}\n```\n"


def scores(reward: Code, programs: list[str], tests: Any, **columns: Any) -> list[float | None]:
    completions = [fenced(program) for program in programs]
    return reward(completions=completions, tests=[tests] * len(programs), **columns)


def test_binary_and_fraction() -> None:
    programs = [COUNT, "print(0)", "print('0\\n1\\n2')", "1 / 0", "print(0)\nexit(1)"]
    assert scores(code(), programs, LINES) == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert scores(code(scoring="fraction"), programs, LINES) == [1.0, 0.5, 0.5, 0.0, 0.0]


def test_functions_and_the_forms_of_tests() -> None:
    add = "class Solution:\n    def add(self, a: List[int], b: int):\n        return tuple(x + b for x in a)"
    forms = [
        [{"function": "add", "arguments": [[1, 2], 1], "expected": [2, 3]}],
        [{"function": "add", "arguments": [[1, 2], 1], "expected": (2, 3), "input": None, "output": None}],
        json.dumps({"inputs": [[[1, 2], 1]], "outputs": [[[2, 3]]], "fn_name": "add"}),
        {"inputs": ["[1, 2]\n1"], "outputs": ["[2, 3]"], "fn_name": "add"},
    ]
    reward = code()
    for form in forms:
        assert scores(reward, [add, add.replace("+", "-")], form) == [1.0, 0.0]
    heap = "def f(x): return heappop(x)"
    form = {"inputs": [[[1, 2]]], "outputs": [1], "fn_name": "f"}
    assert scores(reward, [heap], form) == [0.0]
    assert scores(code(preamble="from heapq import *"), [heap], form) == [1.0]
    lines = {"inputs": [["3"], "1"], "outputs": [["0", "1", "2"], "0\n"], "fn_name": None}
    assert scores(reward, [COUNT, "print(0)"], lines) == [1.0, 0.0]


def test_only_the_response_is_graded() -> None:
    form = {"tests": [LINES] * 4}
    program = f"```python\n{COUNT}\n```"
    completions: list[Any] = [
        f"<think>\n{program}\n</think>\n\nNo idea.",
        f"<think>\n{program}",
        [{"role": "assistant", "content": fenced(COUNT)}],
        f"{program}\n</think>\n\n{program}",
    ]
    assert code()(completions=completions, **form) == [0.0, 0.0, 1.0, 1.0]
    assert code(thinking_prefilled=True)(completions=[program], tests=[LINES]) == [0.0]


def test_what_cannot_be_judged_is_none(caplog: pytest.LogCaptureFixture) -> None:
    logged: dict[str, float] = {}
    reward = code()
    columns = {"tests": [None, [], "", LINES], "log_metric": logged.__setitem__}
    assert reward(completions=[fenced(COUNT)] * 3 + ["no program"], **columns) == [None, None, None, 0.0]
    assert logged == {"code/unverifiable": 0.75, "code/no_program": 0.25}
    # No file can be opened any more, so no sandbox can start: the programs are not to blame.
    assert scores(reward, [COUNT], LINES) == [1.0]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        assert scores(reward, [COUNT, COUNT], LINES) == [None, None]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert "2 of 2 programs could not be run" in caplog.text


def test_the_expected_output_is_not_in_the_sandbox() -> None:
    search = """
import gc, sys
gc.unfreeze()
n = input()
frame, texts = sys._getframe(), [repr(x) for x in gc.get_objects() if isinstance(x, (dict, list, tuple))]
while frame: texts.append(str([frame.f_locals, frame.f_globals])); frame = frame.f_back
found = "".join(["needle", n]) in "".join(texts)
print("".join(["nee", "dle7"]) if found else "nothing")
"""
    tests = [{"input": "7\n", "output": "needle7\n"}]
    assert scores(code(), [search, "print('needle' + input())"], tests) == [0.0, 1.0]
    assert scores(code(), ["x = ['needle7']\n" + search], tests) == [1.0]  # it would find it


CHEATS = [
    "class Yes(str):\n    __eq__ = lambda *a: True\ndef f(x): return Yes('no')",
    "class Yes(list):\n    __eq__ = lambda *a: True\ndef f(x): return Yes()",
    "import os\ndef f(x): os._exit(0)",
    "import json\njson.loads = json.dumps = lambda *a, **k: '42'\ndef f(x): return 0",
    "def f(x): raise SystemExit(0)",
    "import os\ndef f(x):\n    os.write(3, b'[')\n    return 42",
    "def f(x):\n    y = []\n    for _ in range(900): y = [y]\n    return y",
    "def f(x): return True",
]


@pytest.mark.parametrize("program", CHEATS)
def test_cheating_functions_score_nothing(program: str) -> None:
    tests = [
        {"function": "f", "arguments": [41], "expected": 42},
        {"function": "f", "arguments": [1], "expected": 1},
    ]
    assert scores(code(), [program], tests) == [0.0]


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("```python\na\n```\ntext\n```py\nb\nc\n```", "b\nc"),
        ("```python\na\n```\n```\noutput\n```", "a"),
        ("```python\na\n```\n```bash\nls\n```", "a"),
        ("```Python3\r\na\r\n```", "a"),
        ("```python\na\n```\n```python\ncut off", "a"),
        ("```python\ns = '```'\n```", "s = '```'"),
        ("```python title=x\na\n```", "a"),
        ("```python\n\n```", ""),
        ("```\na\n```", None),
        ("python", None),
    ],
)
def test_last_program(response: str, program: str | None) -> None:
    assert last_program(response) == program


@pytest.mark.parametrize(
    ("expected", "printed", "tolerance", "same"),
    [
        ("1\n2\n", "1  \n2\n\n\n", 0, True),
        ("1\n2\n", "1\r\n2", 0, True),
        ("1\n2\n", "1\n", 0, False),
        ("1\n2\n", "1", 0, False),
        ("1\n2\n", "1 2", 0, False),
        ("1\n", " 1", 0, False),
        ("\n1", "1", 0, False),
        ("1.0", "1", 0, False),
        ("1.0 a", "1.0000001  a", 1e-6, True),
        ("1.0", "1.1", 1e-6, False),
        ("1.0\n2.0", "1.0", 1e-6, False),
        ("nan", "0", 1e-6, False),
        ("", "", 0, True),
    ],
)
def test_same_output(expected: str, printed: str, tolerance: float, same: bool) -> None:
    assert same_output(expected, printed, tolerance) is same


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(VALUES, VALUES)
def test_same_value_is_equality_of_json(first: Any, second: Any) -> None:
    assert same_value(first, json.loads(json.dumps(first)))
    assert same_value([first], [first, second]) is False
    assert same_value(first, second) == same_value(second, first)
    if json.dumps(first) == json.dumps(second):
        assert same_value(first, second)


def test_same_value_by_type() -> None:
    assert same_value(1, 1.0)
    assert not same_value(1, True)
    assert not same_value("1", 1)
    assert same_value([0.1 + 0.2], [0.3], 1e-9)
    assert not same_value([0.1 + 0.2], [0.3])
    assert not same_value(10**400, 0.5, 1e-9)
    deep = Run(status="ok", result="[" * 60_000)
    assert not passes(Case(input=Call("f", []), expected=1), deep)
    assert not passes(Case(input=Call("f", []), expected=1), Run(status="ok", result="9" * 10_000))


@pytest.mark.parametrize(
    "tests",
    [
        [{"input": "1"}],
        [{"input": 1, "output": "2"}],
        [{"function": "f", "arguments": 1, "expected": 2}],
        [{"input": "1", "output": "2", "testtype": "functional"}],
        {"inputs": ["1"], "outputs": []},
        "not json",
        3,
        [3],
    ],
)
def test_other_forms_are_refused(tests: Any) -> None:
    with pytest.raises(ValueError, match="tests, row 4"):
        read_cases(tests, 4)


def test_parameters_and_columns_are_checked() -> None:
    with pytest.raises(ValueError, match="scoring"):
        code(scoring="half")
    with pytest.raises(ValueError, match="float_tolerance"):
        code(float_tolerance=-1)
    with pytest.raises(ValueError, match="cpu_seconds"):
        Code(cpu_seconds=0)
    with pytest.raises(ValueError, match="no column 'tests'; its columns: answer"):
        code()(completions=["x"], answer=["1"])
