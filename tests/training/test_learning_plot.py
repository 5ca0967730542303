from __future__ import annotations

from pathlib import Path

import numpy as np

from training.learning_plot import _smoothed, draw_learning


def test_means_over_the_last_steps_leave_out_what_is_not_there() -> None:
    values = np.array([np.nan, 1.0, 3.0, np.nan, *[5.0] * 9, 15.0])
    smooth = _smoothed(values)
    assert np.isnan(smooth[0])
    assert smooth[1:4].tolist() == [1.0, 2.0, 2.0]
    assert smooth[12] == 5.0
    assert smooth[13] == 6.0


def test_a_picture_of_any_history(tmp_path: Path) -> None:
    full = {
        "step": 1,
        "rollouts/right": 0.5,
        "rollouts/length_right": None,
        "rollouts/length_wrong": 30.0,
        "entropy": 0.3,
        "kl": 0.1,
        "groups/all_right": 0.2,
        "groups/all_wrong": 0.3,
    }
    for name, history in (("one", [full]), ("gaps", [full, {"step": 2, "rollouts/reward": 1.0}] * 20)):
        path = tmp_path / "plots" / f"{name}.png"
        draw_learning(history, path)
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000
