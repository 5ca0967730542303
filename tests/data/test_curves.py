from __future__ import annotations

from math import nan
from pathlib import Path

import pytest

from data.curves import learning_picture, loss_picture, smoothed
from data.figures import MOST_POINTS, write_picture


def test_running_means_grow_with_the_log() -> None:
    assert smoothed([]) == []
    assert smoothed([1.0, 3.0, 8.0]) == [1.0, 3.0, 8.0]  # few are shown as they are
    means = smoothed([0.0] * 100 + [10.0] * 300)
    assert means[99:111] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 10.0]
    assert smoothed([5.0] * 40)[0] == 5.0


def test_losses_of_training_and_held_out_rows(tmp_path: Path) -> None:
    rows = [{"step": 0, "eval_loss": 5.0}, *({"step": i, "loss": 5.0 / i} for i in range(1, 40))]
    rows += [
        {"step": 39, "eval_loss": 0.2},
        {"step": 40, "loss": nan},
        {"loss": 1.0},
        {"step": "x", "loss": 1},
    ]
    picture = loss_picture("loss", rows, "a model", "nats a token")
    assert picture is not None
    assert picture.data["eval_loss"]["step"] == [0, 39]
    assert picture.data["loss"]["step"] == list(range(1, 40))
    assert picture.data["loss"]["mean"][1] == pytest.approx(2.5)
    assert "held out" in write_picture(picture, tmp_path)
    assert loss_picture("loss", [{"step": 1, "loss": None}], "a model", "nats a token") is None


def test_long_logs_are_thinned() -> None:
    rows = [{"step": step, "loss": 2.0} for step in range(1, 200_001)]
    picture = loss_picture("loss", rows, "a model", "nats a token")
    assert picture is not None
    assert len(picture.data["loss"]["step"]) == MOST_POINTS
    assert picture.data["loss"]["step"][-1] == 200_000


def test_panels_of_what_was_logged(tmp_path: Path) -> None:
    row = {"rollouts/reward": 1.0, "rollouts/right": 0.5, "groups/all_right": 0.2, "groups/all_wrong": 0.3}
    rows = [{"step": step, **row, "kl": 0.1 if step > 3 else None} for step in range(1, 8)]
    picture = learning_picture("learning", rows)
    assert picture is not None
    assert list(picture.data) == [
        "mean reward of a completion",
        "share of completions, %",
        "share of groups, %",
        "KL to the reference, nats a token",
    ]
    assert picture.data["share of groups, %"]["mixed"]["low"] == [0.2] * 7
    assert picture.data["share of groups, %"]["mixed"]["high"] == pytest.approx([0.7] * 7)
    assert picture.data["KL to the reference, nats a token"]["KL"]["step"] == [4, 5, 6, 7]
    svg = write_picture(picture, tmp_path)
    assert all(label in svg for label in ("all right", "mixed", "all wrong", "optimizer step"))
    assert learning_picture("learning", [{"step": 1, "loss": 2.0}]) is None
