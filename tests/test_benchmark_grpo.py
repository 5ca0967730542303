"""`benchmarks.grpo`: both sides train on the same questions, and its numbers are what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.grpo import Turn, Work, arguments, difference, ours, small_world, stock, summary, take_turn


def turn(seconds: float, right: float, useful: float = 8.0) -> Turn:
    return Turn(seconds_per_step=seconds, useful_per_step=useful, right=right)


def test_summary() -> None:
    turns = {
        "ours": [turn(1, 0.5), turn(2, 0.6), turn(3, 0.7)],
        "stock TRL": [turn(2, 0.4, 16), turn(8, 0.6, 16), turn(4, 0.8, 16)],
    }
    result = summary(turns)
    assert result["seconds_per_step_ratio"] == 0.5
    assert result["useful_groups_ratio"] == 0.5
    gap = result["right_difference"]
    assert gap["mean"] == pytest.approx(0)
    assert gap["low"] == pytest.approx(-gap["high"])
    assert gap["high"] == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-3)
    assert difference([1.0], [0.5])["low"] is None


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return small_world(tmp_path_factory.mktemp("grpo"), quick=True)


@pytest.mark.slow
def test_both_sides_begin_with_the_same_questions(work: Work, tmp_path: Path) -> None:
    sides = {name: build(2)(work, tmp_path / name, 3) for name, build in (("stock", stock), ("ours", ours))}
    batch = next(iter(sides["stock"].get_train_dataloader()))
    groups = sides["ours"].questions.draw(4)
    prompts = [sides["ours"].questions[index].prompt.text for index in groups for _ in range(4)]
    assert [row["prompt"] for row in batch] == prompts
    same = ("learning_rate", "num_generations", "generation_batch_size", "beta", "loss_type", "seed")
    assert all(getattr(sides["stock"].args, key) == getattr(sides["ours"].args, key) for key in same)
    assert arguments(work, tmp_path, 3, 2).max_steps == 2


@pytest.mark.slow
@pytest.mark.parametrize("build", [stock, ours])
def test_a_turn(work: Work, build: type) -> None:
    made = take_turn(build(4), work, 0)
    assert made.seconds_per_step > 0
    assert 0 <= made.useful_per_step <= 4
    assert 0 <= made.right <= 1
