"""Step labels by rollouts: what every label means, what is rolled out for it, and what a kill changes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.prompts import Prompter
from data.schema import Attempt
from data.step_tables import read_labelled
from data.steps import LabelledSolution
from data.store import Journal, read_rows, write_attempts
from data.thinking import THINK_TAGS
from inference import label_steps as label_steps_module
from inference.engine import Follow, Request
from inference.label_steps import (
    LabelStepsConfig,
    gather_rollouts,
    label,
    label_steps,
    roll_out,
    rollout_metrics,
    split_attempts,
)
from inference.step_rollouts import JOURNAL
from inference.transformers_engine import TransformersEngine
from tests.inference.step_oracle import Oracle, Rule, attempt, honest, problem

LAST = "\\boxed{0}"


def config(**fields: Any) -> LabelStepsConfig:
    defaults = {"attempts": "a", "model_name_or_path": "m", "rollouts": 4, "max_tokens": 400, "batch_size": 4}
    return LabelStepsConfig(**{**defaults, **fields})


def labelled(
    tokenizer: Any, folder: Path, attempts: Sequence[Attempt], rule: Rule = honest, **fields: Any
) -> tuple[list[LabelledSolution], Oracle, dict[str, int | float]]:
    engine, own = Oracle(tokenizer, rule), config(**fields)
    solutions, _ = roll_out(own, attempts, folder, engine)
    made, _ = label(own, solutions)
    return made, engine, rollout_metrics(solutions, made)


def after(*steps: str) -> str:
    return "".join(f"{step}\n\n" for step in steps)


# ------------------------------------------------------------------ what labels mean


def test_every_step_has_the_value_of_the_text_up_to_its_end(tokenizer: Any, tmp_path: Path) -> None:
    tried = attempt(["a", "b", "bad", "c", LAST])
    [made], engine, metrics = labelled(tokenizer, tmp_path, [tried])
    assert made.steps == ("a", "b", "bad", "c", LAST)
    assert made.labels == (1, 1, 0, 0, 0)
    assert (made.labeller, made.right, made.model) == ("monte_carlo_hard", False, "policy")
    # the attempt is one of four; of the others two come first, and the third where none of them was right
    assert Counter(engine.prefixes) == {
        after("a"): 2,
        after("a", "b"): 2,
        after("a", "b", "bad"): 3,
        after("a", "b", "bad", "c"): 3,
    }
    assert metrics["rollouts"] == 10
    assert metrics["labels"] == 5
    assert metrics["tokens"] == sum(len(tokenizer(LAST)["input_ids"]) + 1 for _ in engine.prefixes)


def test_soft_labels_are_shares(tokenizer: Any, tmp_path: Path) -> None:
    def half(prefix: str, n: int) -> str:
        return honest(prefix, n) if n % 2 else "\\boxed{0}"

    tried = [attempt(["a", "bad", LAST])]
    [made], engine, _ = labelled(tokenizer, tmp_path / "1", tried, half, labels="soft", rollouts=5)
    assert made.labels == (2 / 5, 0, 0)
    assert engine.calls == 1
    [made], engine, _ = labelled(
        tokenizer, tmp_path / "2", tried, half, labels="soft", rollouts=4, count_attempts=False
    )
    assert made.labels == (2 / 4, 0, 0)
    assert Counter(engine.prefixes) == {after("a"): 4, after("a", "bad"): 4}


def test_rollouts_that_are_in_no_journal_are_told(tokenizer: Any, tmp_path: Path) -> None:
    tried, own, engine = [attempt(["a", "bad", LAST])], config(), Oracle(tokenizer, honest)
    [drawn], _ = roll_out(own, tried, tmp_path, engine)
    [gathered], _ = split_attempts(own, tried, engine)
    with pytest.raises(OSError, match=r"2 of 2 waves of rollouts are in no journal"):
        gather_rollouts([gathered], own.labelling(), tmp_path / "elsewhere")
    gather_rollouts([gathered], own.labelling(), tmp_path)
    assert own.labelling().labels(gathered) == own.labelling().labels(drawn)


def test_right_attempts_need_no_rollouts_of_hard_labels(tokenizer: Any, tmp_path: Path) -> None:
    right = attempt(["a", "b", "\\boxed{1}"], "correct")
    for method in ("monte_carlo", "binary_search"):
        [made], engine, _ = labelled(tokenizer, tmp_path / method, [right], method=method)
        assert made.labels == (1, 1, 1)
        assert made.right is True
        assert not engine.prefixes


@pytest.mark.parametrize("method", ["monte_carlo", "binary_search"])
def test_one_lucky_completion_may_be_too_few(tokenizer: Any, tmp_path: Path, method: str) -> None:
    def lucky(prefix: str, n: int) -> str:
        return "\\boxed{1}" if n == 0 else honest(prefix, n)

    wrong = attempt(["a", "bad", "b", LAST])
    cancelled = attempt(["a", "bad", "\\boxed{1}"], "correct", problem=problem(1))
    for least, labels in ((1, [(1, 1, 1, 0), (1, 1, 1)]), (2, [(1, 0), (1, 1, 1)]), (3, [(1, 0), (1, 0)])):
        made, *_ = labelled(
            tokenizer,
            tmp_path / str(least),
            [wrong, cancelled],
            lucky,
            method=method,
            rollouts=6,
            min_right=least,
        )
        known = [tuple(label for label in m.labels if label is not None) for m in made]
        assert [of[: len(expected)] for of, expected in zip(known, labels, strict=True)] == labels
        assert {label for of in known for label in of} <= {0, 1}


def test_siblings_serve_the_beginnings_that_they_share(tokenizer: Any, tmp_path: Path) -> None:
    right, wrong = attempt(["a", "b", "\\boxed{1}"], "correct", 0), attempt(["a", "c", "bad", LAST], index=1)
    made, engine, _ = labelled(tokenizer, tmp_path / "1", [right, wrong])
    assert [m.labels for m in made] == [(1, 1, 1), (1, 1, 0, 0)]
    assert set(engine.prefixes) == {after("a", "c"), after("a", "c", "bad")}
    other = attempt(["a", "c", "bad", LAST], problem=problem(1))
    _, engine, _ = labelled(tokenizer, tmp_path / "2", [right, other])
    assert after("a") in engine.prefixes  # another problem's attempts say nothing
    wrong_ones = [attempt(["a", f"bad {i}", LAST], index=i) for i in range(4)]
    made, engine, _ = labelled(tokenizer, tmp_path / "3", wrong_ones)
    assert {m.labels[0] for m in made} == {0}  # four attempts are four rollouts
    assert after("a") not in engine.prefixes


def test_equal_prefixes_are_rolled_out_once(tokenizer: Any, tmp_path: Path) -> None:
    twins = [attempt(["bad", "b", LAST], index=i) for i in range(2)]
    made, engine, metrics = labelled(tokenizer, tmp_path, twins, rollouts=6)
    assert [m.labels for m in made] == [(0, 0, 0)] * 2
    assert Counter(engine.prefixes) == {after("bad"): 4, after("bad", "b"): 4}
    assert len({request.seed for request in engine.requests}) == 8
    assert metrics["prefixes"] == metrics["rolled_out"] == 2


def test_a_right_completion_is_one_of_every_shorter_prefix(tokenizer: Any, tmp_path: Path) -> None:
    def late(prefix: str, n: int) -> str:
        return "\\boxed{1}" if prefix == after("a", "b", "c") else "\\boxed{0}"

    [made], engine, _ = labelled(tokenizer, tmp_path, [attempt(["a", "b", "c", LAST])], late, rollouts=5)
    assert made.labels == (1, 1, 1, 0)
    assert Counter(engine.prefixes) == {after("a"): 2, after("a", "b"): 2, after("a", "b", "c"): 2}


@pytest.mark.parametrize("error", range(8))
def test_binary_search_finds_the_first_error(tokenizer: Any, tmp_path: Path, error: int) -> None:
    steps = [f"step {i}" if i != error else "bad" for i in range(7)] + [LAST]
    [made], engine, metrics = labelled(
        tokenizer, tmp_path, [attempt(steps)], method="binary_search", rollouts=3
    )
    assert made.labels == (*[1] * error, 0, *[None] * (7 - error))
    assert made.first_error == error
    assert len(set(engine.prefixes)) == 3
    assert metrics["labels"] == error + 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 12), min_size=1, max_size=12), st.integers(2, 5))
def test_searches_go_together_and_in_few_rounds(
    tokenizer: Any, tmp_path_factory: pytest.TempPathFactory, errors: list[int], rollouts: int
) -> None:
    length = 13
    texts = [[f"{i}.{j}" if j != error else "bad" for j in range(length)] for i, error in enumerate(errors)]
    attempts = [attempt([*steps, LAST], problem=problem(i)) for i, steps in enumerate(texts)]
    made, engine, _ = labelled(
        tokenizer,
        tmp_path_factory.mktemp("search"),
        attempts,
        method="binary_search",
        rollouts=rollouts,
        batch_size=64,
    )
    assert [m.first_error for m in made] == errors
    assert engine.calls <= 2 * 4  # waves times log2(14)
    assert len(engine.prefixes) <= len(errors) * 4 * (rollouts - 1)


def test_a_search_uses_what_other_searches_find(tokenizer: Any, tmp_path: Path) -> None:
    steps = [f"step {i}" for i in range(6)]
    attempts = [
        attempt([*steps, "bad", LAST], index=0),
        attempt([*steps[:2], "bad", "x", "y", LAST], index=1),
    ]
    made, engine, _ = labelled(tokenizer, tmp_path, attempts, method="binary_search", rollouts=6)
    assert [m.first_error for m in made] == [6, 2]
    assert after(*steps[:1]) not in engine.prefixes


def test_unverifiable_rollouts_are_no_wrong_ones(tokenizer: Any, tmp_path: Path) -> None:
    def mute(prefix: str, _: int) -> str:
        return "\\boxed{it depends}" if prefix == after("a") else honest(prefix, 0)

    gold = problem(answer="\\text{the second of the two}")
    tried = attempt(["a", "bad", LAST], problem=gold)
    *_, metrics = labelled(tokenizer, tmp_path / "hard", [tried], mute, rollouts=3)
    assert metrics["unverifiable_rollouts"] > 0
    [made], *_ = labelled(
        tokenizer, tmp_path / "soft", [tried], mute, labels="soft", count_attempts=False, rollouts=3
    )
    assert made.labels[0] is None
    assert made.labels[-1] == 0


# ------------------------------------------------------------------ what is asked of the engine


def test_rollouts_go_on_from_exactly_the_prefix(tokenizer: Any, tmp_path: Path) -> None:
    tried = attempt(["<think>\na b", "bad", "c\n</think>", LAST])
    _, engine, _ = labelled(tokenizer, tmp_path, [tried], max_tokens=60)
    prompt = Prompter(tokenizer=tokenizer, style="direct", thinking_format=THINK_TAGS).prompt("Question 0?")
    for request, prefix in zip(engine.requests, engine.prefixes, strict=True):
        assert tried.completion.text.startswith(prefix)
        assert tokenizer.decode(list(request.prompt_ids)) == prompt.text + prefix
        assert request.params.max_tokens == 60 - (len(request.prompt_ids) - len(prompt.ids))
    seeds = {(r.prompt_ids, r.seed) for r in engine.requests}
    assert len(seeds) == len(engine.requests)
    _, again, _ = labelled(tokenizer, tmp_path / "again", [tried], max_tokens=60)
    assert seeds == {(r.prompt_ids, r.seed) for r in again.requests}


def test_bad_words_are_banned_in_rollouts(tokenizer: Any, tmp_path: Path) -> None:
    _, engine, _ = labelled(tokenizer, tmp_path, [attempt(["a", LAST])], bad_words=["a"])
    [token] = tokenizer("a")["input_ids"]
    assert all(token in request.params.banned_ids for request in engine.requests)


# ------------------------------------------------------------------ the stage


@pytest.fixture
def stage(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the stage with an oracle; gives the rows, the rejected rows and the metrics."""

    def run(attempts: Sequence[Attempt], rule: Rule = honest, **fields: Any) -> tuple[list, list, dict]:
        write_attempts(tmp_path / "a", attempts)
        monkeypatch.setattr(label_steps_module, "load_engine", lambda config: Oracle(tokenizer, rule))
        folder = tmp_path / "out"
        metrics = label_steps(config(attempts=str(tmp_path / "a"), **fields), folder)
        assert not list(folder.glob("*.journal*"))
        bad = read_rows(folder / "rejected" / "rows.parquet", "rejected")
        return read_labelled(folder), bad, metrics

    return run


def test_what_cannot_be_labelled_is_rejected_with_the_reason(stage: Any) -> None:
    attempts = [
        attempt(["a", "bad", LAST]),
        attempt(["a"], "unverifiable"),
        attempt(["<think>\n</think>"]),
        attempt(["a", "long " * 500, LAST]),
        attempt(["a", LAST], problem=problem(1, question="<|im_end|>?")),
        attempt(["a", "x\n<think>\ny", LAST]),
    ]
    rows, bad, metrics = stage(attempts)
    assert [row.labels for row in rows] == [(1, 0, 0)]
    assert sorted(row["rule"] for row in bad) == sorted(
        ["unverifiable", "no_step", "overlong", "unusable_question", "separator_in_step"]
    )
    assert all(row["id"] and row["row"] for row in bad)
    assert (metrics["attempts"], metrics["solutions"], metrics["rejected"]) == (6, 1, 5)
    assert metrics["first_errors"] == {"1": 1}
    assert metrics["right_steps"] == pytest.approx(1 / 3)
    assert metrics["wrong_steps"] == pytest.approx(2 / 3)


def test_attempts_with_another_prompt_are_refused(stage: Any) -> None:
    with pytest.raises(ValueError, match=r"none can be labelled.*other_prompt"):
        stage([attempt(["a", LAST])], prompt_style="s1")


def test_eval_rows_are_refused(stage: Any) -> None:
    with pytest.raises(ValueError, match=r"attempts: .*role eval.*may not train"):
        stage([attempt(["a", LAST], problem=problem(role="eval"))])
    with pytest.raises(ValueError, match="holds no attempt"):
        stage([])


def test_bad_options_are_named() -> None:
    for fields, message in [
        ({"rollouts": 0}, "rollouts"),
        ({"temperature": 0}, "temperature 0 all are the same"),
        ({"method": "binary_search", "labels": "soft"}, "labels"),
        ({"step_separator": ""}, "step_separator"),
        ({"waits": 1, "answer_tokens": 16}, "no control of thinking"),
        ({"resample_longer_than": 9}, "no control of thinking"),
        ({"limit": 0}, "limit"),
        ({"judge": {"base_url": "http://x/v1", "modell": "m"}}, "did you mean 'model'"),
        ({"judge": {"base_url": "http://x/v1"}}, "model is missing"),
        ({"judge": {"base_url": "x", "model": "m"}}, "must begin with http"),
    ]:
        with pytest.raises(ValueError, match=message):
            config(**fields)


# ------------------------------------------------------------------ kills, on a real engine


@pytest.fixture(scope="module")
def written_attempts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Attempts in lines, which share some of their beginnings."""
    folder = tmp_path_factory.mktemp("attempts")
    lines = [[f"{j} + {j * (i if j > 2 else 1)}" for j in range(7)] for i in range(3)]
    rows = [
        attempt([*own, LAST], "correct" if n == i == 1 else "wrong", i, problem=problem(n))
        for n in range(3)
        for i, own in enumerate(lines)
    ]
    write_attempts(folder, rows)
    return folder


class StopAfter(TransformersEngine):
    """Breaks down after some batches, as a machine does."""

    left = 0

    def generate(self, requests: Sequence[Request], follow: Follow | None = None) -> Iterator[list]:
        for batch in super().generate(requests, follow):
            if StopAfter.left == 0:
                raise RuntimeError("power cut")
            StopAfter.left -= 1
            yield batch


@pytest.mark.parametrize("method", ["monte_carlo", "binary_search"])
def test_a_broken_run_ends_with_the_same_rows(
    tiny_model: Path,
    written_attempts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: Any,
) -> None:
    own = config(
        attempts=str(written_attempts),
        model_name_or_path=str(tiny_model),
        dtype="float32",
        max_tokens=56,
        method=method,
    )
    whole = label_steps(own, tmp_path / "whole")
    assert whole["rollouts"] > 20
    broken = StopAfter.load(str(tiny_model), dtype="float32", batch_size=4)
    for left in (3, 7):
        with monkeypatch.context() as patch:
            StopAfter.left = left
            patch.setattr(label_steps_module, "load_engine", lambda config: broken)
            with pytest.raises(RuntimeError, match="power cut"):
                label_steps(own, tmp_path / "parts")
    torn = tmp_path / "parts" / JOURNAL
    with Journal(torn) as journal:
        assert journal.rows
    torn.write_bytes(torn.read_bytes()[:-20])
    with caplog.at_level(logging.INFO):
        parts = label_steps(own, tmp_path / "parts")
    assert "going on after" in caplog.text
    assert repr(read_labelled(tmp_path / "parts")) == repr(read_labelled(tmp_path / "whole"))
    assert {k: v for k, v in parts.items() if k != "seconds"} == {
        k: v for k, v in whole.items() if k != "seconds"
    }
