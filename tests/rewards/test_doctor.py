"""The doctor: which exploits which rewards pay for."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from data.thinking import FORMATS
from launch.cli import main
from rewards.doctor import R1_ZERO, doctor, overpaid, pay, specimen_domain
from rewards.registry import build_rewards
from rewards.specimens import program_specimens, specimens

SOUND = """
thinking_format: answer_tags
rewards:
  - accuracy
  - {name: format, weight: 0.5}
  - {name: language, weight: 0.5}
  - {name: repetition, weight: 0.5, over: words}
  - {name: overlong, max_completion_tokens: 1024, cache_tokens: 256}
"""


def _paid(specs: list[Any], form: str) -> set[str]:
    return {payment.specimen.name for payment in overpaid(pay(build_rewards(specs, form), form))}


def test_r1_zero_pays_for_thinking_that_is_none() -> None:
    paid = _paid(R1_ZERO["rewards"], R1_ZERO["thinking_format"])
    assert paid == {"thinking in another language", "repeated First,", "overlong"}


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_in_every_format_honest_good_answers_earn_most(form: str) -> None:
    payments = pay(build_rewards(["accuracy", "format"], form), form)
    totals = {
        kind: [p.total for p in payments if p.specimen.kind == kind] for kind in ("honest good", "honest bad")
    }
    assert set(totals["honest good"]) == {2.0}
    assert set(totals["honest bad"]) == {1.0}
    paid = {p.specimen.name for p in overpaid(payments)}
    assert paid == {"thinking in another language", "repeated First,", "overlong"}


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_every_specimen_is_its_own(form: str) -> None:
    examined = [*specimens(FORMATS[form]), *program_specimens(FORMATS[form])]
    assert len({s.name for s in examined}) == len({s.text for s in examined}) == len(examined)
    assert {s.kind for s in examined} == {"honest good", "honest bad", "exploit"}


@pytest.mark.parametrize(
    ("reward", "exploit"),
    [
        ("tag_count", "instructions to the judge"),
        ("reasoning_steps", "a verdict in the answer"),
        ("format", "overlong, wrong"),
    ],
)
def test_a_reward_for_form_alone_pays_a_wrong_answer_like_a_right_one(reward: str, exploit: str) -> None:
    assert exploit in _paid([reward], "answer_tags")


def test_a_users_careless_function_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "careless.py").write_text(
        "def mentioned(completions, answer, **_):\n"
        "    return [float(bool(gold) and gold in text) for text, gold in zip(completions, answer)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    paid = _paid([{"function": "careless:mentioned"}, "format"], "think_tags")
    assert {"all answers listed", "two answers", "all choices listed"} <= paid


def test_exit_code_and_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "rewards"]) == 1
    out = capsys.readouterr().out
    assert "paid like an honest answer: thinking in another language (told apart by: language)" in out
    assert "3 of 24 exploits" in out
    (tmp_path / "05_grpo.yaml").write_text(SOUND)
    (tmp_path / "01_collect.yaml").write_text("stage: collect\n")
    for what in (tmp_path, tmp_path / "05_grpo.yaml"):
        assert main(["doctor", "rewards", str(what)]) == 0
        assert "0 of 24 exploits" in capsys.readouterr().out


def test_rewards_for_other_questions_are_not_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = "{name: judge, domains: [talk], base_url: 'http://127.0.0.1:9', model: m, retries: 0}"
    model = "{name: reward_model, domains: [talk], model: 'run:02_reward_model'}"
    for rules in (
        SOUND.replace("- accuracy", "- {name: accuracy, domains: [math]}"),
        SOUND.replace("- accuracy", "- {name: accuracy, except_domains: [talk]}"),
    ):
        (tmp_path / "grpo.yaml").write_text(f"{rules}  - {judge}\n  - {model}\n")
        assert main(["doctor", "rewards", str(tmp_path)]) == 0
        assert "0 of 24 exploits" in capsys.readouterr().out
    (tmp_path / "grpo.yaml").write_text(f"rewards:\n  - {{name: format, domains: [talk]}}\n  - {model}\n")
    assert main(["doctor", "rewards", str(tmp_path)]) == 0
    assert "no reward applies to questions with a checkable answer" in capsys.readouterr().out
    (tmp_path / "grpo.yaml").write_text(f"{SOUND}  - {{name: reward_model, model: m}}\n")
    assert main(["doctor", "rewards", str(tmp_path)]) == 2
    assert "reward_model: the doctor examines rules and loads no model" in capsys.readouterr().err


def test_programs_are_of_the_domain_that_code_is_for() -> None:
    rewards = build_rewards(
        [{"name": "accuracy", "except_domains": ["code"]}, {"name": "code", "domains": ["code"]}]
    )
    assert specimen_domain(rewards, programs=True) == "code"
    assert specimen_domain(rewards, programs=False) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stage: sft\n", "no recipe there has a `rewards:` list"),
        ("rewards: [acuracy]\n", "did you mean 'accuracy'"),
        ("rewards: [\n", "not a YAML file"),
    ],
)
def test_bad_recipes(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "grpo.yaml").write_text(text)
    assert main(["doctor", "rewards", str(tmp_path / "grpo.yaml")]) == 2
    assert message in capsys.readouterr().err
    assert main(["doctor", "rewards", str(tmp_path / "absent")]) == 2


@pytest.mark.slow
def test_programs_that_cheat_earn_nothing(tmp_path: Path) -> None:
    (tmp_path / "code.yaml").write_text(
        "rewards:\n  - accuracy\n  - {name: code, wall_seconds: 3, cpu_seconds: 2}\n"
    )
    out = io.StringIO()
    doctor(tmp_path / "code.yaml", out)
    rows = {line.strip().split("  ")[0]: line.split() for line in out.getvalue().splitlines() if "  " in line}
    assert rows["good program"][-3:] == ["1.00", "honest", "good"]
    for name in ("first line only", "prints every line it might need", "ends without an error", "never ends"):
        assert rows[name][-2:] == ["0.00", "0.00"], name
    assert rows["looks for the expected output"][-1] == rows["equal to everything"][-1] == "0.00"
