"""`benchmarks.verifier`: it counts what it says, reads every source, and ends with one JSON line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import verifier
from benchmarks.verifier_reference import (
    GRADERS,
    bomb,
    completions,
    forget,
    interval,
    labelled,
    ours,
    quality,
)
from rewards import algebra

ROWS = [
    {"gold": "\\frac{1}{2}", "pred": "0.5", "label": 1, "kind": "answer"},
    {"gold": "7", "pred": "So $x=6$ and the answer is $\\boxed{7}$.", "label": 1, "kind": "text"},
    {"gold": "2", "pred": "3", "label": 0, "kind": "answer"},
    {"gold": "5", "pred": "5", "label": 0, "kind": "answer"},  # a false positive of anyone
    {"gold": "5", "pred": "6", "label": 1, "kind": "answer"},  # a false negative of anyone
    {"gold": "\\sqrt{2}", "pred": "1.414", "label": None, "kind": "answer"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with the labelled pairs alone."""
    (tmp_path / "verifier_pairs").mkdir()
    text = "\n".join(json.dumps(row | {"label_by": "hand"}) for row in ROWS)
    for name in ("hard_pairs", "pairs"):
        (tmp_path / "verifier_pairs" / f"{name}.jsonl").write_text(text)
    return tmp_path


def test_every_grader_makes_the_planted_errors_and_no_other(folder: Path) -> None:
    result = quality("planted", labelled(folder, "hard_pairs"), verbose=False)
    assert (result["right"], result["wrong"]) == (3, 2)
    for grader in GRADERS:
        start = "" if grader == "ours" else f"{grader}_"
        assert (result[f"{start}false_positives"], result[f"{start}false_negatives"]) == (1, 1)


def test_interval_is_wilsons() -> None:
    assert interval(0, 10) == pytest.approx((0, 0.2775), abs=1e-3)
    assert interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-3)


def test_sources(tmp_path: Path) -> None:
    boxed = '{"reasoning": "\\\\(x\\\\)",\n "answer": "\\\\frac{1}{2}"\n}'
    gym = {"expected_answer": "27", "completions": [{"full_model_response": "<answer>27</answer>"}]}
    files: dict[str, Any] = {
        "traces/rg_qwen2.5-3b-instruct_gsm8k.jsonl": {"gt": "18", "code": ["\\boxed{18}", "18"]},
        "traces/zeroeval_mathl5_Qwen2.5-7B-Instruct.json": [
            {"answer": "\\frac{1}{2}", "output": [boxed]},
            {"answer": "3", "output": ["cut off"]},
        ],
        "traces/rg_llama3b_step400_amc23.json": {"categories": [{"datasets": [{"results": [gym]}]}]},
        "gsm8k/example_model_solutions.jsonl": {
            "ground_truth": "1+2=3\nA: 3",
            **{
                f"{size}_{way}": {"solution": "1 + 2 = 3\nA: 3"}
                for size in ("6b", "175b")
                for way in ("finetuning", "verification")
            },
        },
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    found = completions(tmp_path)
    assert {name: len(pairs) for name, pairs in found.items()} == dict(zip(files, (2, 2, 1, 4), strict=True))
    forget()
    outcomes = [verdict.outcome for pairs in found.values() for verdict in ours(pairs)]
    assert outcomes == ["correct"] * 3 + ["wrong"] + ["correct"] * 5


def test_bombs_differ_and_shifted_answers_too() -> None:
    assert len({bomb(number) for number in range(100)}) == 100
    assert verifier.shift("\\frac{9}{4}", 3) == "\\frac{12}{4}"
    assert verifier.shift("\\pi", 3) == "\\pi"


def test_absent_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"hard_pairs.jsonl is absent.*SLOWTHINK_DATA"):
        labelled(tmp_path, "hard_pairs")


def test_last_line(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = verifier.QUICK._replace(block=3, blocks=2, batch=100, batch_seconds=1.0, leak=(6, 20))
    monkeypatch.setattr(verifier, "QUICK", tiny)
    monkeypatch.setattr("sys.argv", ["verifier", "--quick", "--data", str(folder)])
    verifier.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    counts = [f"{who}false_{what}" for who in ("", "math_verify_") for what in ("positives", "negatives")]
    assert all(type(result[key]) is int for key in (*counts, "speed_pairs", "batch_rows", "batch_timeouts"))
    rates = ("speedup_vs_math_verify", "two_process_scaling", "ours_pairs_per_second", "batch_seconds")
    assert all(result[key] > 0 for key in (*rates, "math_verify_pairs_per_second", "worker_start_seconds"))
    assert result["speed_pairs"] == 6
    assert [row["verdicts"] for row in result["leak"]] == [6, 20]


def test_start_worker_starts_one_afresh() -> None:
    verifier.start_worker()
    (first,) = algebra._pool().workers
    verifier.start_worker()
    (second,) = algebra._pool().workers
    assert first.process.poll() is not None
    assert second.process.poll() is None


def test_real_files(shared_data: Callable[[str], Path]) -> None:
    hard = labelled(shared_data("verifier_pairs/hard_pairs.jsonl").parent.parent, "hard_pairs")
    assert {pair.label for pair in hard} == {0, 1, None}
