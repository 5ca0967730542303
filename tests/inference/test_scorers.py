"""`StepScorer` against full encoding of every solution, whatever it has kept, and what it forwards."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
)

from data.small_world import build_tokenizer
from data.step_formats import StepIds
from inference.scorers.reward_model import RewardModel, RewardModelOptions, judge
from inference.scorers.step_scorer import StepScorer

HeadName = Literal["classifier", "tokens"]
WORDS = [str(number) for number in range(10)]
QUESTIONS = ["What is 1 + 2?", "What is 3 * 4 - 5?"]


def make_reward_model(
    config_class: Any = LlamaConfig, head: HeadName = "classifier", **more: Any
) -> RewardModel:
    """A small reward model with random weights, far enough from each other that its scores differ."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        num_labels=2,
        initializer_range=0.2,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )
    auto: Any = AutoModelForTokenClassification if head == "classifier" else AutoModelForCausalLM
    model = auto.from_config(config, dtype=torch.float32).eval()
    options = RewardModelOptions(step_separator="\n\n", head=head)
    return RewardModel(name="tiny", model=model, tokenizer=tokenizer, options=options)


def reference(
    reward: RewardModel, questions: Sequence[str], solutions: Sequence[Sequence[str]]
) -> list[list[float]]:
    """All solutions encoded in full in one batch, padded on the left, with the model's own attention."""
    encoded = [reward.step_format.encode(q, steps) for q, steps in zip(questions, solutions, strict=True)]
    width = max(len(steps.ids) for steps in encoded)
    pads = [width - len(steps.ids) for steps in encoded]
    rows = [[0] * pad + steps.ids for pad, steps in zip(pads, encoded, strict=True)]
    mask = [[0] * pad + [1] * len(steps.ids) for pad, steps in zip(pads, encoded, strict=True)]
    positions = (torch.tensor(mask).cumsum(-1) - 1).clamp(min=0)
    inputs = {
        "input_ids": torch.tensor(rows),
        "attention_mask": torch.tensor(mask),
        "position_ids": positions,
    }
    answers = reward.options.answer_ids(reward.tokenizer)
    with torch.no_grad():
        logits = judge(reward.model, inputs, torch.arange(width), answers)
    right = logits.softmax(-1)[..., 1]
    return [
        [right[row, pad + end].item() for end in steps.ends]
        for row, (pad, steps) in enumerate(zip(pads, encoded, strict=True))
    ]


def same(ours: list[list[float]], theirs: list[list[float]]) -> None:
    assert [len(scores) for scores in ours] == [len(scores) for scores in theirs]
    flat = [score for scores in ours for score in scores]
    assert flat == pytest.approx([score for scores in theirs for score in scores], abs=1e-4)


def unique_tokens(encoded: Sequence[StepIds]) -> int:
    """Tokens of all solutions, those that they begin with alike counted once."""
    prefixes = {tuple(steps.ids[: end + 1]) for steps in encoded for end in range(len(steps.ids))}
    return len(prefixes)


def a_step(draw: random.Random) -> str:
    return " + ".join(draw.choices(WORDS, k=draw.randint(1, 6)))


ARCHITECTURES = [
    (LlamaConfig, {}),
    (Qwen2Config, {}),
    (MistralConfig, {"sliding_window": 8}),
    (Qwen2Config, {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
]


@pytest.mark.parametrize("head", ["classifier", "tokens"])
@pytest.mark.parametrize(("config_class", "more"), ARCHITECTURES)
def test_scores_of_growing_forking_and_evicted_branches(config_class: Any, more: Any, head: HeadName) -> None:
    reward = make_reward_model(config_class, head, **more)
    draw = random.Random(1)
    for max_kv_tokens, batch_tokens in ((1 << 16, 4096), (640, 24), (256, 7)):
        scorer = StepScorer.of(reward, max_kv_tokens=max_kv_tokens, batch_tokens=batch_tokens)
        seen: list[tuple[str, list[str]]] = [(question, []) for question in QUESTIONS]
        for _ in range(12):
            picked = [draw.choice(seen) for _ in range(draw.randint(1, 6))]
            grown = [
                (
                    question,
                    steps[: draw.randint(0, len(steps))] + [a_step(draw) for _ in range(draw.randint(0, 2))],
                )
                for question, steps in picked
            ]
            seen += grown
            questions, solutions = [q for q, _ in grown], [steps for _, steps in grown]
            same(scorer.score(questions, solutions), reference(reward, questions, solutions))
            cache = scorer.kept.cache
            assert cache.slots * cache.capacity <= max_kv_tokens
    assert (
        len({round(score, 2) for scores in reference(reward, questions, solutions) for score in scores}) > 1
    )


def test_every_token_is_forwarded_once() -> None:
    reward = make_reward_model()
    scorer = StepScorer.of(reward)
    draw = random.Random(2)
    branches: list[tuple[str, list[str]]] = [(question, []) for question in QUESTIONS for _ in range(4)]
    every: list[StepIds] = []
    for _ in range(6):
        branches = [(q, [*steps, a_step(draw)]) for q, steps in draw.choices(branches, k=8)]
        scorer.score([q for q, _ in branches], [steps for _, steps in branches])
        every += [reward.step_format.encode(q, steps) for q, steps in branches]
        assert scorer.forwarded_tokens == unique_tokens(every)


def test_what_is_known_is_not_computed_again() -> None:
    reward = make_reward_model()
    scorer = StepScorer.of(reward)
    steps = ["1 + 2 = 3", "3", "answer"]
    first = scorer.score([QUESTIONS[0]], [steps])[0]
    before = scorer.forwarded_tokens
    assert before == len(reward.step_format.encode(QUESTIONS[0], steps).ids)
    again = scorer.score([QUESTIONS[0]] * 4, [steps, steps[:1], steps[:2], []])
    assert again == [first, first[:1], first[:2], []]
    assert scorer.forwarded_tokens == before
    scorer.forget()
    assert scorer.score([QUESTIONS[0]], [steps])[0] == pytest.approx(first, abs=1e-6)
    assert scorer.forwarded_tokens == 2 * before


def test_same_tokens_in_other_steps() -> None:
    reward = make_reward_model()
    scorer = StepScorer.of(reward)
    whole, parts = ["1\n\n2\n\n3"], ["1", "2", "3"]
    for solutions in ([whole], [parts], [[*whole, "4"], parts, [*parts[:2], "5"]]):
        questions = [QUESTIONS[0]] * len(solutions)
        same(scorer.score(questions, solutions), reference(reward, questions, solutions))


def test_what_a_call_needs_is_dropped_last() -> None:
    reward = make_reward_model()
    scorer = StepScorer.of(reward, max_kv_tokens=4 * 64)
    questions = [f"What is {number}?" for number in range(6)]
    steps = ["1 + 2", "3"]
    for question in questions[:4]:
        scorer.score([question], [steps[:1]])
    scorer.score([questions[0]], [steps[:1]])  # used again, so that question 1 is the oldest
    before = scorer.forwarded_tokens
    scorer.score([questions[0], questions[4]], [steps, steps[:1]])
    new = reward.step_format.encode(questions[0], steps)
    fresh = reward.step_format.encode(questions[4], steps[:1])
    common = 0
    ids = [reward.step_format.encode(q, steps[:1]).ids for q in (questions[2], questions[4])]
    while ids[0][common] == ids[1][common]:
        common += 1
    assert scorer.forwarded_tokens - before == new.ends[1] - new.ends[0] + len(fresh.ids) - common
    held = {tuple(slot.ids) for slot in scorer.kept.slots}
    assert tuple(reward.step_format.encode(questions[1], steps[:1]).ids) not in held
    assert tuple(new.ids) in held


def test_more_solutions_than_there_is_room_for() -> None:
    reward = make_reward_model()
    scorer = StepScorer.of(reward, max_kv_tokens=128)
    draw = random.Random(3)
    solutions = [[a_step(draw) for _ in range(3)] for _ in range(7)]
    questions = [QUESTIONS[i % 2] for i in range(7)]
    same(scorer.score(questions, solutions), reference(reward, questions, solutions))
    longer = [[*steps, a_step(draw)] for steps in solutions]
    same(scorer.score(questions, longer), reference(reward, questions, longer))


def test_short_forks_of_a_branch_that_fills_the_room() -> None:
    reward = make_reward_model()
    scorer = StepScorer.of(reward, max_kv_tokens=256)
    same_question = [QUESTIONS[0]] * 4
    scorer.score(same_question[:1], [["1 + 2"] * 30])
    solutions = [["1 + 2", digit] for digit in "3456"]
    same(scorer.score(same_question, solutions), reference(reward, same_question, solutions))
    assert (scorer.kept.cache.slots, scorer.kept.cache.capacity) == (4, 64)


@pytest.mark.parametrize("tokens", range(61, 67))
def test_padding_behind_a_branch_that_fills_its_slot(tokens: int) -> None:
    reward = make_reward_model()
    scorer = StepScorer.of(reward)
    ids, marker = reward.step_format.encode(QUESTIONS[0], ["1"]).ids, reward.step_format.marker_ids
    goes_on = ["1", "+" * (tokens - len(ids) - len(marker))]
    forks = ["+" * (tokens - len(ids) + 1)]
    for steps in (goes_on, forks):
        assert len(reward.step_format.encode(QUESTIONS[0], steps).ids) == tokens
    scorer.score(QUESTIONS[:1], [["1"]])
    twice, solutions = [QUESTIONS[0]] * 2, [goes_on, forks]
    same(scorer.score(twice, solutions), reference(reward, twice, solutions))


def test_model_is_given_back_as_it_was() -> None:
    reward = make_reward_model()
    reward.model.train()
    attention = reward.model.config._attn_implementation
    first = StepScorer.of(reward).score(QUESTIONS, [["1"], ["2"]])
    assert reward.model.training
    assert reward.model.config._attn_implementation == attention
    reward.model.eval()
    same(first, reference(reward, QUESTIONS, [["1"], ["2"]]))


@pytest.mark.parametrize("head", ["classifier", "tokens"])
def test_the_tokens_that_are_judged_are_those_of_training(
    head: HeadName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids, positions in the sequence and logits of each judged column, as `judge` gets them."""
    reward = make_reward_model(head=head)
    seen: list[tuple[Any, Any]] = []

    def spy(model: Any, inputs: Any, columns_K: torch.Tensor, answers: Any) -> torch.Tensor:
        ids, positions = inputs["input_ids"][:, columns_K], inputs["position_ids"][:, columns_K]
        seen.append((ids.tolist(), positions.tolist()))
        return judge(model, inputs, columns_K, answers)

    monkeypatch.setattr("inference.scorers.step_scorer.judge", spy)
    steps = ["1 + 2 = 3", "3 + 4", "7"]
    encoded = reward.step_format.encode(QUESTIONS[0], steps)
    scorer = StepScorer.of(reward)
    scorer.score([QUESTIONS[0]], [steps[:2]])
    scorer.score([QUESTIONS[0]], [steps])
    judged = [pair for ids, positions in seen for pair in zip(ids[0], positions[0], strict=True)]
    assert judged == [(encoded.ids[end], end) for end in encoded.ends]
    assert {ids for ids, _ in judged} == {reward.step_format.marker_ids[-1]}


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (["1", " \n"], "solution 1: a step has no text"),
        (["1<|im_end|>"], "solution 1: a step contains the special token '<|im_end|>'"),
        (["1 + " * 300], "solution 1: .* tokens are more than the 512 of tiny"),
    ],
)
def test_steps_that_cannot_be_read(steps: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepScorer.of(make_reward_model()).score(QUESTIONS, [["1"], steps])


def test_limits_are_checked() -> None:
    reward = make_reward_model()
    for limit in ("batch_tokens", "max_kv_tokens"):
        with pytest.raises(ValueError, match=f"{limit}: 0 must be at least 1"):
            StepScorer.of(reward, **{limit: 0})
    with pytest.raises(ValueError, match="tokens need scorer_max_kv_tokens 128 or more, not 64"):
        StepScorer.of(reward, max_kv_tokens=64).score(QUESTIONS[:1], [["1 + 2"] * 12])


def test_a_score_that_is_no_number_is_refused() -> None:
    reward = make_reward_model()
    with torch.no_grad():
        reward.model.score.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="tiny gives the score nan"):
        StepScorer.of(reward).score(QUESTIONS[:1], [["1"]])


def test_attention_that_slots_cannot_hold_is_refused() -> None:
    reward = make_reward_model(LlamaConfig)
    reward.model.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(ValueError, match="scorer_model: tiny has layers that cannot be run here"):
        StepScorer.of(replace(reward))
