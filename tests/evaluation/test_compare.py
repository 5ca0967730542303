from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.store import write_json
from evaluation.compare import CompareConfig, compare
from evaluation.evaluate import EvaluateConfig, evaluate
from tests.evaluation.evaluations import evaluation


def run(folder: Path, *evaluations: Path, **options: Any) -> dict[str, Any]:
    """comparison.json of these evaluations."""
    compare(CompareConfig(evaluations=[str(each) for each in evaluations], **options), folder)
    return json.loads((folder / "comparison.json").read_text())


def rows(found: dict[str, Any], metric: str = "accuracy", benchmark: str = "sums") -> list[dict[str, Any]]:
    return found["benchmarks"][benchmark]["metrics"][metric]


def test_changes_are_paired_by_problem_whatever_their_order(tmp_path: Path) -> None:
    """The second is right wherever the first is, and once more: unpaired, that would be lost in the noise."""
    base = evaluation(tmp_path / "01_base", [0.0, 1.0] * 20)
    later = [1.0 if i % 2 or i < 16 else 0.0 for i in range(40)]
    turned = [f"p{i}" for i in reversed(range(40))]
    better = evaluation(tmp_path / "02_sft", later[::-1], ids=turned)
    first, second = rows(run(tmp_path / "out", base, better))
    assert (first["name"], first["change"]) == ("01_base", None)
    change = second["change"]
    assert change["against"] == "01_base"
    assert change["mean"] == pytest.approx(8 / 40)
    assert change["clear"]
    # bootstrap of 8 ones among 40: the standard error is that of a share of 0.2
    spread = 1.96 * np.sqrt(0.2 * 0.8 / 40)
    assert change["low"] == pytest.approx(0.2 - spread, abs=0.03)
    assert change["high"] == pytest.approx(0.2 + spread, abs=0.03)
    assert second["value"]["mean"] == pytest.approx(0.7)
    assert second["value"]["low"] < 0.6  # alone, neither evaluation says so much


def test_against_the_previous_or_the_first(tmp_path: Path) -> None:
    folders = [evaluation(tmp_path / f"0{i}", [i / 4] * 6, thinking_tokens=[100 * i] * 6) for i in range(3)]
    by_previous = rows(run(tmp_path / "previous", *folders))
    assert [row["change"] and row["change"]["mean"] for row in by_previous] == [None, 0.25, 0.25]
    by_first = run(tmp_path / "first", *folders, against="first", names=["base", "sft", "grpo"])
    assert [row["change"] and row["change"]["mean"] for row in rows(by_first)] == [None, 0.25, 0.5]
    assert [row["name"] for row in rows(by_first)] == ["base", "sft", "grpo"]
    tokens = rows(by_first, "thinking_tokens")[2]
    assert tokens["change"] == {
        "against": "base",
        "mean": 200,
        "low": 200,
        "high": 200,
        "problems": 6,
        "clear": True,
    }


def test_problems_without_a_value_leave_the_pair(tmp_path: Path) -> None:
    """Thinking without words has no language: only problems judged in both are compared."""
    base = evaluation(tmp_path / "a", [0, 0, 1], language_share=[0.2, None, 0.4])
    other = evaluation(tmp_path / "b", [0, 0, 1], language_share=[0.6, 1.0, None])
    silent = evaluation(tmp_path / "c", [0, 0, 1], language_share=[None] * 3)
    found = rows(run(tmp_path / "out", base, other, silent), "language_share")
    assert found[0]["value"]["mean"] == pytest.approx(0.3)
    assert found[1]["value"]["mean"] == pytest.approx(0.8)
    assert found[1]["change"]["mean"] == pytest.approx(0.4)
    assert found[1]["change"]["problems"] == 1
    assert (found[2]["value"], found[2]["change"]) == (None, None)


def test_a_metric_that_nobody_has_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = [evaluation(tmp_path / name, [0, 1], language_share=[None] * 2) for name in ("a", "b")]
    assert "language_share" not in run(tmp_path / "out", *folders)["benchmarks"]["sums"]["metrics"]
    assert "language_share has no value in any evaluation" in caplog.text
    with pytest.raises(ValueError, match=r"metrics: language_share have no value .* add accuracy"):
        run(tmp_path / "out", *folders, metrics=["language_share"])


def test_nothing_changed_is_not_clear(tmp_path: Path) -> None:
    folders = [evaluation(tmp_path / name, [0.0, 1.0, 1.0], thinking_tokens=[5, 9, 7]) for name in ("a", "b")]
    found = run(tmp_path / "out", *folders)
    change = rows(found)[1]["change"]
    assert change["low"] < change["mean"] == 0 < change["high"]
    assert not change["clear"]
    tokens = rows(found, "thinking_tokens")[1]["change"]
    assert (tokens["low"], tokens["high"], tokens["clear"]) == (0, 0, False)


def test_real_evaluations_end_in_table_plot_and_flat_metrics(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"question": f"What is {i} + 1?", "answer": str(i + 1)}) for i in range(4)]
    (tmp_path / "sums.jsonl").write_text("\n".join(lines))
    source = {"path": str(tmp_path / "sums.jsonl"), "role": "eval", "licence": "MIT"}
    folders = []
    for seed, name in enumerate(("01_base", "02_a_stage_with_a_rather_long_name")):
        config = EvaluateConfig(
            model_name_or_path=str(tiny_model),
            benchmarks=[{**source, "name": "one [1]"}, {**source, "name": "half", "limit": 2}],
            max_tokens=5 + seed,
            num_completions=2,
            k=[1, 2],
            seed=seed,
        )
        folders.append(tmp_path / name)
        evaluate(config, folders[-1])
        manifest = {"pipeline": "x", "name": name, "stage": "evaluate", "status": "finished"}
        write_json(folders[-1] / "manifest.json", manifest)
    capsys.readouterr()
    config = CompareConfig(evaluations=list(map(str, folders)), metrics=["completion_tokens", "maj@2"])
    metrics = compare(config, tmp_path / "out")
    numbers = {key: value for key, value in metrics.items() if isinstance(value, float)}
    assert set(numbers) == {f"{b} completion_tokens {f.name}" for b in ("one [1]", "half") for f in folders}
    shown = capsys.readouterr().out
    assert "one [1], 4 problems" in shown
    line = next(line for line in shown.splitlines() if line.lstrip().startswith("02_a_stage"))
    change = json.loads((tmp_path / "out" / "comparison.json").read_text())["benchmarks"]["one [1]"][
        "metrics"
    ]
    assert f"{change['completion_tokens'][1]['change']['mean']:+.1f} [" in line
    assert (tmp_path / "out" / "plots" / "comparison.png").read_bytes()[1:4] == b"PNG"


def test_evaluations_made_in_other_ways_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = evaluation(tmp_path / "a", [0, 1])
    other = evaluation(tmp_path / "b", [0, 1], settings={"max_tokens": 1024, "model": "n"})
    run(tmp_path / "out", base, other)
    assert "max_tokens differs (a 512, b 1024)" in caplog.text
    assert "model differs" not in caplog.text


def test_stages_of_one_name_are_told_apart_by_their_pipelines(tmp_path: Path) -> None:
    folders = [evaluation(tmp_path / pipeline / "07_evaluate", [0, 1]) for pipeline in ("rl", "distill")]
    assert [row["name"] for row in rows(run(tmp_path / "out", *folders))] == [
        "rl/07_evaluate",
        "distill/07_evaluate",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"ids": ["p0", "q1"]},
            r"'sums' has other problems in b \(2\) than in a \(2\): lacks 1 \(p1\), has 1",
        ),
        ({"ids": ["p0", "p0"]}, "evaluate both on one set"),
        ({"benchmark": "chains"}, "'sums' is not in b; in all evaluations are none"),
        ({"status": "failed"}, r"b is not finished \(failed\); run its stage first"),
        ({"stage": "sft"}, "b is of stage 'sft'; give folders of stage evaluate"),
        ({"settings": {"language": "zh"}}, "language_share is of different languages.*take it out"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    base, other = evaluation(tmp_path / "a", [0, 1]), evaluation(tmp_path / "b", [0, 1], **options)
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "out", base, other)
    assert not (tmp_path / "out").exists()


def test_a_problem_that_one_evaluation_has_twice_is_named(tmp_path: Path) -> None:
    base = evaluation(tmp_path / "a", [0, 1], ids=["p", "q"])
    other = evaluation(tmp_path / "b", [0, 1, 1], ids=["p", "q", "q"])
    with pytest.raises(ValueError, match=r"lacks none, has 1 \(q\) beside"):
        run(tmp_path / "out", base, other)


def test_missing_folders_files_and_metrics_are_refused(tmp_path: Path) -> None:
    base, other = evaluation(tmp_path / "a", [0, 1]), evaluation(tmp_path / "b", [0, 1])
    with pytest.raises(ValueError, match="nowhere is no run folder"):
        run(tmp_path / "out", base, tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=r"a did not measure pass@8 of sums, but accuracy, .*add its k to `k`"
    ):
        run(tmp_path / "out", base, other, metrics=["pass@8"])
    (other / "problem_values.json").unlink()
    with pytest.raises(ValueError, match=r"b has no problem_values\.json.*run its stage again"):
        run(tmp_path / "out", base, other)


def test_benchmarks_can_be_chosen(tmp_path: Path) -> None:
    base, other = evaluation(tmp_path / "a", [0, 1]), evaluation(tmp_path / "b", [1, 1])
    found = json.loads((other / "problem_values.json").read_text())
    found["benchmarks"]["more"] = found["benchmarks"]["sums"]
    write_json(other / "problem_values.json", found)
    with pytest.raises(ValueError, match=r"'more' is not in a; in all evaluations are \['sums'\]"):
        run(tmp_path / "out", base, other)
    assert set(run(tmp_path / "out", base, other, benchmarks=["sums"])["benchmarks"]) == {"sums"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evaluations": ["a"]}, "evaluations: give at least two folders"),
        ({"evaluations": ["a", "a"]}, "evaluations: one repeats"),
        ({"names": ["x"]}, "names: 1 for 2 evaluations"),
        ({"metrics": []}, "metrics: give at least one"),
        ({"metrics": ["acuracy"]}, "metrics: 'acuracy' is not one of accuracy, .*pass@8"),
        ({"metrics": ["pass@0"]}, "metrics: 'pass@0'"),
        ({"against": "last"}, "against: 'last' is not one of previous, first"),
    ],
)
def test_mistakes_are_refused_at_parse_time(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CompareConfig(**{"evaluations": ["a", "b"], **options})
