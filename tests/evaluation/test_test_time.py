from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evaluation.test_time as stage
from data.control_sets import LONG, SHORT
from data.store import read_attempts, read_json
from evaluation.problem_values import read_setting_values

ALL_METHODS = [
    {"method": "plain"},
    {"method": "budget_forcing", "max_thinking_tokens": [4, 12], "waits": [0, 1], "wait_text": "Hmm"},
    {"method": "budget_forcing", "name": "least", "min_thinking_tokens": [6], "max_thinking_tokens": 20},
    {"method": "token_conditional", "budgets": [8]},
    {"method": "token_conditional", "budgets": [8], "force": True},
    {"method": "step_conditional", "budgets": [1]},
    {"method": "class_conditional"},
    {"method": "rejection", "budgets": [25], "temperature": 1.0},
    {"method": "majority", "votes": [1, 3], "temperature": 1.0},
]
Configure = Callable[..., stage.TestTimeConfig]


@pytest.fixture
def configure(tiny_model: Path, tmp_path: Path) -> Configure:
    rows = [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(4)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(tmp_path / "sums.jsonl"), "role": "eval", "licence": "MIT"}
    defaults: dict[str, Any] = {
        "model_name_or_path": str(tiny_model),
        "benchmarks": [{**source, "name": "all/sums"}, {**source, "name": "few", "limit": 2}],
        "methods": [{"method": "plain"}],
        "thinking_format": "s1",
        "prompt_style": "s1",
        "max_tokens": 35,
        "answer_tokens": 10,
        "resample_tries": 2,
        "batch_size": 16,
    }
    return lambda **options: stage.TestTimeConfig(**{**defaults, **options})


def test_every_method_in_one_run(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(methods=ALL_METHODS)
    metrics = stage.test_time(config, tmp_path)
    by_title = {title: row for row in metrics["settings"] for title in row["settings"]}
    measured = read_setting_values(tmp_path)
    assert len(by_title) == len(measured) == 14
    assert len(metrics["settings"]) == 12  # Hmm x 0 is plain, and all votes come from one draw
    assert by_title["plain"] is by_title["budget forcing: Hmm x 0"]
    assert by_title["majority vote: 1 vote"] is by_title["majority vote: 3 votes"]
    assert by_title["majority vote: 3 votes"]["completions"] == 4 * 3
    assert metrics["tokens"] == sum(
        attempt.completion.completion_tokens
        for row in metrics["settings"]
        for attempt in read_attempts(tmp_path / "settings" / row["folder"])
    )
    for title in ("budget forcing: 4", "token-conditional + budget forcing: 8"):
        attempts = read_attempts(tmp_path / "settings" / by_title[title]["folder"])
        most = int(title.split()[-1])
        assert max(a.completion.thinking_tokens for a in attempts) <= most
        assert by_title[title]["forced_ends"] > 0
        assert by_title[title]["counts_are_partial"] is False
    assert "forced_ends" not in by_title["plain"]
    for name in ("all/sums", "few"):
        methods = {row["method"]: row for row in metrics["benchmarks"][name]}
        assert [point["name"] for point in methods["budget forcing"]["points"]] == [
            "4",
            "12",
            "Hmm x 0",
            "Hmm x 1",
        ]
        assert methods["budget forcing"]["bounded_settings"] == 2
        assert methods["budget forcing"]["control_per_completion"]["value"] == 1
        assert methods["least"]["bounded_settings"] == 1
        assert methods["step-conditional"]["bounded_settings"] == 1
        assert methods["class-conditional"]["control"] is None
        votes = [point["thinking_tokens"]["value"] for point in methods["majority vote"]["points"]]
        assert votes[1] == pytest.approx(3 * votes[0])
        assert metrics[f"{name} plain"] == methods["plain"]["performance"]["value"]
        for method, row in methods.items():
            for point in row["points"]:
                title = method if point["name"] == method else f"{method}: {point['name']}"
                for metric in ("accuracy", "thinking_tokens"):
                    values = measured[title].values[name][metric]
                    assert len(values) == len(measured[title].ids[name]) == (4 if name == "all/sums" else 2)
                    assert np.mean(np.array(values, float)) == pytest.approx(point[metric]["value"])
        one, three = (
            np.array(measured[f"majority vote: {votes}"].values[name]["completion_tokens"], float)
            for votes in ("1 vote", "3 votes")
        )
        assert three == pytest.approx(3 * one)
    assert "token-conditional" in (tmp_path / "results-all-sums.md").read_text()
    assert (tmp_path / "scaling-few.png").read_bytes().startswith(b"\x89PNG")
    assert "budget forcing" in capsys.readouterr().out


class KilledError(Exception):
    pass


def test_a_stage_killed_between_settings_goes_on_with_the_next(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, real = configure().benchmarks[:1], stage.draw
    config = configure(methods=ALL_METHODS[:2] + ALL_METHODS[-1:], benchmarks=one)
    expected = stage.test_time(config, tmp_path / "quiet")
    drawn: list[str] = []
    died: list[bool] = []

    def dying(*arguments: Any) -> Any:
        if len(drawn) == 2 and not died:
            died.append(True)
            raise KilledError
        drawn.append(arguments[3].name)
        return real(*arguments)

    monkeypatch.setattr(stage, "draw", dying)
    with pytest.raises(KilledError):
        stage.test_time(config, tmp_path / "killed")
    assert stage.test_time(config, tmp_path / "killed") == expected
    assert drawn == [row["folder"] for row in expected["settings"]]  # each once
    for row in expected["settings"]:
        attempts = [read_attempts(tmp_path / run / "settings" / row["folder"]) for run in ("quiet", "killed")]
        assert attempts[0] == attempts[1]
    monkeypatch.setattr(stage, "load_engine", None)  # a stage whose settings are all there loads no model
    assert stage.test_time(config, tmp_path / "killed") == expected


def test_counts_of_a_setting_that_was_stopped_on_its_way_are_called_partial(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, real = configure(methods=[{"method": "budget_forcing", "waits": [2]}]), stage.write_attempts

    def dying(*_: Any) -> None:
        raise KilledError

    monkeypatch.setattr(stage, "write_attempts", dying)
    with pytest.raises(KilledError):
        stage.test_time(config, tmp_path)
    monkeypatch.setattr(stage, "write_attempts", real)
    (row,) = stage.test_time(config, tmp_path)["settings"]
    assert row["counts_are_partial"] is True
    assert row["completions"] == 4
    assert sorted(path.name for path in (tmp_path / "settings" / row["folder"]).iterdir()) == [
        "attempts.parquet",
        "finished.json",
        "rejected",
    ]
    assert read_json(tmp_path / "settings" / row["folder"] / stage.FINISHED)["rejected"] == 0


def test_a_benchmark_of_which_nothing_fits_the_model_stops_the_first_setting(
    configure: Configure, tmp_path: Path
) -> None:
    (tmp_path / "long.jsonl").write_text(json.dumps({"question": "7 + " * 3000, "answer": "1"}) + "\n")
    source = {"path": str(tmp_path / "long.jsonl"), "role": "eval", "licence": "MIT"}
    config = configure(benchmarks=[*configure().benchmarks, source])
    with pytest.raises(
        ValueError, match=r"benchmark long: none of it fits the model; see .*01-plain.rejected"
    ):
        stage.test_time(config, tmp_path)


def test_what_each_method_asks_for(configure: Configure) -> None:
    config = configure(methods=ALL_METHODS, question_suffix="Be brief.")
    planned = {setting.title: setting for setting in config.planned()}
    bounds = {title: (s.variant.low, s.variant.high) for title, s in planned.items()}
    assert bounds["budget forcing: 12"] == (None, 12)
    assert bounds["budget forcing: Hmm x 1"] == (None, None)
    assert bounds["least: at least 6"] == (6, 20)
    assert bounds["step-conditional: 1"] == (None, 100)
    assert bounds["rejection sampling: 25"] == (None, 25)
    options = {title: setting.options for title, setting in planned.items()}
    assert options["class-conditional: short"].question_suffix == f"Be brief. {SHORT}"
    assert options["class-conditional: long"].question_suffix == f"Be brief. {LONG}"
    assert options["token-conditional: 8"].question_suffix == "Be brief. Think for up to 8 tokens."
    assert options["step-conditional: 1"].question_suffix == "Be brief. Think for up to 1 steps."
    assert options["token-conditional: 8"].budget() is None
    assert options["token-conditional + budget forcing: 8"].max_thinking_tokens == 8
    assert options["least: at least 6"].min_thinking_tokens == 6
    assert options["budget forcing: Hmm x 1"].wait_text == "Hmm"
    assert options["rejection sampling: 25"].resample_longer_than == 25
    assert {title for title, one in options.items() if one.temperature} == {
        "rejection sampling: 25",
        "majority vote: 1 vote",
        "majority vote: 3 votes",
    }


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([], "methods: give at least one"),
        ([{"method": "budget_forced"}], r"methods\[0\]: method: .* did you mean 'budget_forcing'"),
        ([{"budgets": [8]}], r"methods\[0\]: method: None is none; there are plain"),
        (
            [{"method": "rejection", "budget": [8]}],
            "rejection: the method has no 'budget'; did you mean 'budgets'",
        ),
        (
            [{"method": "class_conditional", "force": True}],
            "class_conditional: the method has no 'force'; there are",
        ),
        ([{"method": "plain"}, {"method": "majority"}], r"methods\[1\]: majority: votes is missing"),
        ([{"method": "token_conditional", "budgets": 8}], "budgets: 8 is not of type list"),
        ([{"method": "token_conditional", "budgets": []}], r"budgets: \[\] must be one or more"),
        ([{"method": "majority", "votes": [0, 1], "temperature": 1}], r"votes: \[0, 1\] must be"),
        ([{"method": "budget_forcing", "waits": [1, 1]}], r"waits: \[1, 1\] must be"),
        ([{"method": "budget_forcing"}], "give max_thinking_tokens, min_thinking_tokens, waits"),
        (
            [{"method": "budget_forcing", "min_thinking_tokens": [9], "max_thinking_tokens": 8}],
            "min_thinking_tokens: 9 is above max_thinking_tokens 8",
        ),
        ([{"method": "budget_forcing", "max_thinking_tokens": [26]}], "max_tokens: 35 leaves 25 tokens"),
        ([{"method": "majority", "votes": [2]}], "majority vote needs temperature above 0; add `temperature"),
        ([{"method": "rejection", "budgets": [8]}], "rejection sampling needs temperature above 0"),
        ([{"method": "plain", "num_completions": 2}], "num_completions: 2 must be .* 1 with temperature 0"),
        (
            [{"method": "majority", "votes": [4], "num_completions": 2, "temperature": 1}],
            "votes: 4 of 2 completions cannot vote",
        ),
        ([{"method": "plain"}, {"method": "plain", "temperature": 1}], "2 settings of 'plain' are called"),
    ],
)
def test_mistakes_in_methods_are_named(configure: Configure, methods: list[dict], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configure(methods=methods)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"waits": 2}, "waits: belongs to an entry of methods"),
        ({"max_thinking_tokens": 0}, "max_thinking_tokens: belongs to an entry of methods"),
        ({"benchmarks": []}, "benchmarks: give at least one"),
        ({"benchmarks": [{"id": "math5000"}]}, r"benchmarks\[0\]"),
        (
            {"benchmarks": [{"id": "math500", "name": "a/b"}, {"id": "math500", "name": "a-b"}]},
            "names repeat",
        ),
    ],
)
def test_mistakes_in_the_stage_are_named(configure: Configure, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configure(**options)
