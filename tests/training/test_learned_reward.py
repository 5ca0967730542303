"""Reward `reward_model` on small real models, and a run in which it pays for what no rule can judge."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data.rollouts import read_rollouts
from data.schema import Problem
from data.stage_help import field_documents
from data.step_formats import StepFormatOptions
from data.store import read_json
from inference.scorers.load import ScorerOptions, load_scorer
from inference.scorers.outcome_scorer import save_pairwise_options
from rewards.registry import build_rewards
from tests.training.grpo_runs import problems, run
from training.grpo import GrpoConfig
from training.learned_reward import LEARNED_REWARDS, ModelReward, load_models

TEXT = "<think>\nSo 1 + 2.\n\nWait, 3.\n</think>\n\nIt is 3.\n\nThe answer is 3."


@pytest.fixture(scope="module")
def judge(tiny_model: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as stage reward_model saves it, with random weights that tell texts apart."""
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp("judges") / "judge"
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1, dtype=torch.float32)
    torch.nn.init.normal_(model.score.weight, std=1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_pairwise_options(folder, StepFormatOptions())
    return folder


def made(judge: Path, **options: Any) -> Any:
    spec = {"name": "reward_model", "model": str(judge), **options}
    return build_rewards([spec], more=LEARNED_REWARDS)[0].function


def last_score(judge: Path, question: str, steps: list[str]) -> float:
    scorer = load_scorer(ScorerOptions(scorer_model=str(judge)))
    return scorer.score([question], [steps])[0][-1]


def test_every_parameter_is_explained() -> None:
    assert {field.name for field in dataclasses.fields(ModelReward)} == set(field_documents(ModelReward))


def test_the_response_alone_or_all_of_it(judge: Path) -> None:
    call: dict[str, Any] = {"completions": [TEXT, TEXT], "question": ["What is 1 + 2?", "And 2 + 1?"]}
    response = made(judge)(**call)
    parts = ["It is 3.", "The answer is 3."]
    assert response == [
        pytest.approx(last_score(judge, question, parts), abs=1e-5) for question in call["question"]
    ]
    whole = made(judge, part="all")(**call)
    steps = ["So 1 + 2.", "Wait, 3.", *parts]
    assert whole[0] == pytest.approx(last_score(judge, "What is 1 + 2?", steps), abs=1e-5)
    assert 0 < response[0] < 1
    assert len({*response, *whole}) == 4
    turns = [[{"role": "assistant", "content": TEXT}]] * 2
    assert made(judge)(**{**call, "completions": turns}) == response
    opened = TEXT.removeprefix("<think>\n")
    assert made(judge, thinking_prefilled=True)(**{**call, "completions": [opened] * 2}) == response
    one = made(judge, step_separator="\n\n\n")(**call)
    assert one[0] == pytest.approx(last_score(judge, "What is 1 + 2?", ["\n\n".join(parts)]), abs=1e-5)


def test_steps_are_aggregated(judge: Path) -> None:
    call: dict[str, Any] = {"completions": [TEXT], "question": ["What is 1 + 2?"]}
    scorer = load_scorer(ScorerOptions(scorer_model=str(judge)))
    [scores] = scorer.score(call["question"], [["It is 3.", "The answer is 3."]])
    for how, expected in (("min", min(scores)), ("mean", sum(scores) / 2), ("prod", math.prod(scores))):
        assert made(judge, aggregation=how)(**call) == [pytest.approx(expected, abs=1e-5)]


def test_what_cannot_be_judged(judge: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = ["<think>\nit never ended", "fine", "a <|im_end|> inside", "", "long " * 3000]
    logged: dict[str, float] = {}
    values = made(judge, label="helpful")(
        completions=texts, question=["q?"] * 5, log_metric=lambda name, value: logged.update({name: value})
    )
    assert [value is None for value in values] == [False, False, True, False, True]
    assert values[0] == values[3] == 0.0
    assert values[1] == pytest.approx(last_score(judge, "q?", ["fine"]), abs=1e-5)
    assert logged == {"helpful/refused": 0.4}
    assert "helpful: 2 of 5 completions could not be read" in caplog.text
    assert "special token '<|im_end|>'" in caplog.text


def test_the_model_is_loaded_once_and_keeps_no_memory(judge: Path) -> None:
    one, other = made(judge), made(judge, part="all", label="harmless")
    scorer: Any = one.load()
    assert scorer is other.load()
    assert scorer is not made(judge, dtype="bfloat16").load()
    assert not scorer.model.training
    one(completions=[TEXT], question=["q?"])
    assert scorer.kept.slots == []
    assert all(parameter.grad is None for parameter in scorer.model.parameters())


def test_its_weights_are_whole_where_those_of_the_policy_are_split(judge: Path) -> None:
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, is_deepspeed_zero3_enabled

    held = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1})
    assert is_deepspeed_zero3_enabled()
    values = made(judge, batch_tokens=4000)(completions=["fine"], question=["q?"])
    assert is_deepspeed_zero3_enabled(), "the policy's are still to be split"
    del held
    assert not is_deepspeed_zero3_enabled()
    assert values == [pytest.approx(last_score(judge, "q?", ["fine"]), abs=1e-5)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": "thinking"}, "part: 'thinking' is not one of 'response', 'all'"),
        ({"scorer": "pairwize"}, r"rewards\[0\] \(reward_model\): scorer: there is no 'pairwize'; did you"),
        ({"options": {"base_url": "x"}}, r"\(reward_model\): options: scorer auto has none, not base_url"),
        ({"batch_tokens": 0}, r"\(reward_model\): batch_tokens: 0 must be at least 1"),
        ({"aggregation": "sum"}, "aggregation: 'sum' is not one of"),
        ({"thinking_format": "tags"}, "thinking_format: 'tags' is not one of"),
    ],
)
def test_mistakes_are_named_when_the_recipe_is_read(options: dict[str, Any], message: str) -> None:
    rewards = [{"name": "reward_model", "model": "m", **options}]
    with pytest.raises(ValueError, match=message):
        GrpoConfig(problems="p", rewards=rewards)


def test_a_wrong_model_is_refused_before_the_run(judge: Path, tiny_model: Path) -> None:
    def rewards(model: str) -> Any:
        return build_rewards([{"name": "reward_model", "model": model}], more=LEARNED_REWARDS)

    with pytest.raises(ValueError, match=r"rewards: reward_model: model: \./nowhere does not exist"):
        load_models(rewards("./nowhere"))
    with pytest.raises(ValueError, match=r"model: \./runs/my_scorer_v2 does not exist"):
        load_models(rewards("./runs/my_scorer_v2"))
    with pytest.raises(ValueError, match="rewards: reward_model: scorer: auto cannot tell how"):
        load_models(rewards(str(tiny_model)))
    with pytest.raises(ValueError, match="key 'model' is missing"):
        build_rewards(["reward_model"], more=LEARNED_REWARDS)
    with pytest.raises(ValueError, match="question: the dataset has no column 'question'; there are answer"):
        made(judge)(completions=["x"], answer=["y"])


class Longest:
    """A scorer of one's own, whose model is no folder of transformers."""

    def __init__(self, model: str) -> None:
        self.model = model

    def score(self, questions: Any, solutions: Any) -> list[list[float]]:
        return [[min(1.0, len(step) / 10) for step in steps] for steps in solutions]


def test_a_scorer_of_ones_own(tmp_path: Path) -> None:
    own = made(tmp_path / "weights.bin", scorer=f"{__name__}:Longest")
    assert own(completions=["five5\n\nfour"], question=["q?"]) == [0.4]


@pytest.mark.slow
def test_rules_and_a_reward_model_share_a_run(tiny_model: Path, judge: Path, tmp_path: Path) -> None:
    """Questions of two domains; no rule applies to one of them, and the reward model not to the other."""
    sums = [replace(problem, domain="math") for problem in problems(4)]
    talk = [
        Problem(id=f"t{i}", question=f"Say hello to {name}.", answer="", domain="talk")
        for i, name in enumerate(("Anna", "Ben", "Carl", "Dora"))
    ]
    rewards = [
        {"name": "accuracy", "domains": ["math"]},
        {"name": "reward_model", "model": str(judge), "domains": ["talk"]},
        {"name": "format", "weight": 0.5},
    ]
    metrics = run(
        tiny_model,
        tmp_path / "out",
        rewards=rewards,
        questions=[*sums, *talk],
        stage={"curriculum": "pass_rate"},
        max_steps=3,
        save_steps=3,
    )
    assert metrics["questions"] == 8
    steps = read_json(tmp_path / "out" / "log_history.json")
    for number in range(3):
        rows = list(read_rollouts(tmp_path / "out", number))
        for row in rows:
            is_talk = row.id.startswith("t")
            assert row.rewards["accuracy"] is None or not is_talk
            assert row.rewards["reward_model"] is None or is_talk
            assert row.rewards["format"] is not None
            assert row.verdict == "unverifiable" or not is_talk
        paid = [row.rewards["reward_model"] for row in rows if row.rewards["reward_model"] is not None]
        assert len(paid) >= sum(row.id.startswith("t") for row in rows) / 2, "some have a control token"
        mean = steps[number]["rewards/reward_model/mean"]
        assert mean is None if not paid else mean == pytest.approx(sum(paid) / len(paid), abs=1e-5)
        known = [row.verdict == "unverifiable" for row in rows if not row.id.startswith("t")]
        share = sum(known) / len(known) if known else None
        assert steps[number]["rollouts/unverifiable"] == pytest.approx(share)
    state = read_json(tmp_path / "out" / "checkpoint-3" / "grpo_state.json")["questions"]
    seen = dict(zip(state["ids"], state["seen"], strict=True))
    assert not any(count for name, count in seen.items() if name.startswith("t")), "no pass rate of talk"
    assert any(seen.values())
    assert any(row.advantage for row in rows if row.id.startswith("t"))
