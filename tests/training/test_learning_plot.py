from __future__ import annotations

from pathlib import Path

from training.learning_plot import draw_learning


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
