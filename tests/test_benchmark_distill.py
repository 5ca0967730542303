"""`benchmarks.distill`: its numbers are what they say, and its work is that of the options."""

from __future__ import annotations

import sys
from argparse import Namespace

import pytest

from benchmarks.distill import Point, main, make_work, summary, tokens_to


def points(*pairs: tuple[int, float]) -> list[Point]:
    """Measurements from generated tokens and agreement; the accuracy is half the agreement."""
    return [Point(step, tokens, value, 1 - value, 2, value / 2) for step, (tokens, value) in enumerate(pairs)]


def test_tokens_to_an_agreement() -> None:
    curve = points((0, 0.5), (1000, 0.7), (2000, 0.6), (3000, 0.9))
    assert tokens_to(curve, 0.4) == 0
    assert tokens_to(curve, 0.6) == pytest.approx(500)
    assert tokens_to(curve, 0.8) == pytest.approx(2000 + 1000 * 2 / 3)
    assert tokens_to(curve, 0.95) is None


def test_summary() -> None:
    def turn(on_policy: float, trace_sft: float) -> dict[str, list[Point]]:
        return {
            "on-policy": points((0, 0.5), (1000, on_policy)),
            "off-policy": points((0, 0.5), (1000, 0.6)),
            "trace SFT": points((0, 0.5), (1000, trace_sft)),
        }

    result = summary([turn(0.9, 0.7), turn(0.8, 0.6), turn(0.6, 0.7)])
    assert result["agreement_on_policy"] == pytest.approx(2.3 / 3)
    assert result["agreement_trace_sft"] == pytest.approx(2 / 3)
    assert result["agreement_off_policy"] == pytest.approx(0.6)
    assert result["kl_on_policy_by_seed"] == pytest.approx([0.1, 0.2, 0.4])
    assert result["agreement_untrained"] == 0.5
    assert result["accuracy_per_million_tokens_off_policy"] == pytest.approx(50)
    assert result["tokens_to_trace_sft_agreement_ratios"] == [pytest.approx(0.5), pytest.approx(1 / 3), None]
    assert result["tokens_to_trace_sft_agreement_ratio"] == pytest.approx(0.5)
    never = summary([turn(0.9, 0.7), turn(0.6, 0.7), turn(0.5, 0.7)])
    assert never["tokens_to_trace_sft_agreement_ratio"] is None


def test_the_work_of_a_seed() -> None:
    options = Namespace(quick=True, steps=2, rows=4, learning_rate=1e-3, beta=1, measurements=1)
    work = make_work({"teacher": "runs/{seed}/t", "student": "s"}, options, 7)
    assert (work.teacher, work.student, work.seed, work.steps, work.rows) == ("runs/7/t", "s", 7, 2, 4)
    assert (len(work.train), len(work.unseen)) == (30, 8)
    assert not {problem.id for problem in work.train} & {problem.id for problem in work.unseen}


def test_one_folder_alone_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.distill", "--teacher", "t"])
    with pytest.raises(SystemExit):
        main()
    assert "--teacher and --student go together" in capsys.readouterr().err
