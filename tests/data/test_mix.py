"""Mixtures: shares that add up, draws that do not depend on the order of rows, and refusals that say what
helps."""

from __future__ import annotations

import random
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.mix import MixConfig, Part, apportion, largest_size, mix, part_sizes
from data.recipe import load_recipe
from data.schema import Attempt, Completion, Problem, Role, problem_id
from data.stage import configure
from data.store import read_attempts, read_rows, write_attempts


def trace(name: str, tokens: int = 10, role: Role = "train") -> Attempt:
    completion = Completion(
        text="",
        thinking=f"Thought about {name}.",
        response="1",
        finish_reason="stop",
        prompt_tokens=1,
        thinking_tokens=tokens,
        completion_tokens=tokens + 5,
        model="m",
        seed=0,
    )
    problem = Problem(id=problem_id(name), question=name, answer="1", role=role)
    return Attempt(problem=problem, index=0, completion=completion, verdict="correct", extracted="1")


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """60 traces of 1 to 60 tokens in `reasoning`, 20 in `chat`."""
    write_attempts(tmp_path / "reasoning", [trace(f"r{n}", n) for n in range(1, 61)], "traces")
    write_attempts(tmp_path / "chat", [trace(f"c{n}") for n in range(20)], "traces")
    return tmp_path


def config(folders: Path, *weights: tuple[str, float], **more: Any) -> MixConfig:
    parts = [{"traces": str(folders / name), "weight": weight} for name, weight in weights]
    return MixConfig(parts=parts, **more)


def names(folder: Path) -> list[str]:
    return [row.problem.question for row in read_attempts(folder, "traces")]


def test_parts_are_drawn_by_weight_and_every_row_is_accounted_for(folders: Path) -> None:
    metrics = mix(config(folders, ("reasoning", 3), ("chat", 1), size=40), folders / "out")
    drawn = names(folders / "out")
    assert len(set(drawn)) == 40
    assert Counter(name[0] for name in drawn) == {"r": 30, "c": 10}
    assert drawn != sorted(drawn)
    assert [n[0] for n in drawn] != ["r"] * 30 + ["c"] * 10
    assert (metrics["rows_in"], metrics["rows_out"]) == (80, 40)
    chat = {"in": 20, "wanted_share": 0.25, "out": 10, "share": 0.25, "mean_thinking_tokens": 10.0}
    assert metrics["parts"]["chat"] == chat
    lengths = [r.completion.thinking_tokens for r in read_attempts(folders / "out", "traces")]
    rest = read_rows(folders / "out" / "rejected" / "rows.parquet", "rejected")
    assert Counter(row["rule"] for row in rest) == {"not_drawn": 40}
    assert metrics["parts"]["reasoning"]["mean_thinking_tokens"] == (sum(lengths) - 100) / 30
    everything = mix(config(folders, ("reasoning", 3), ("chat", 1)), folders / "all")
    assert everything["rows_out"] == 80


def test_the_same_seed_gives_the_same_rows_however_they_are_stored(folders: Path) -> None:
    def mixed(seed: int) -> list[str]:
        mix(config(folders, ("reasoning", 1), ("chat", 1), size=20, seed=seed), folders / "out")
        return names(folders / "out")

    first = mixed(1)
    assert mixed(2) != first
    rows = read_attempts(folders / "reasoning", "traces")
    write_attempts(folders / "reasoning", random.Random(0).sample(rows, 60), "traces")
    assert mixed(1) == first


def test_long_and_short_traces_of_one_folder(folders: Path) -> None:
    """mix-long: a fifth long, the rest short."""
    traces = str(folders / "reasoning")
    long = {"traces": traces, "weight": 0.2, "name": "long", "min_thinking_tokens": 51}
    short = {"traces": traces, "weight": 0.8, "name": "short", "max_thinking_tokens": 30}
    metrics = mix(MixConfig(parts=[long, short]), folders / "out")
    assert {name: part["out"] for name, part in metrics["parts"].items()} == {"long": 8, "short": 30}
    assert metrics["parts"]["long"]["mean_thinking_tokens"] > 50
    rules = Counter(r["rule"] for r in read_rows(folders / "out" / "rejected" / "rows.parquet", "rejected"))
    assert rules == {"outside_length": 80, "not_drawn": 2}
    with pytest.raises(ValueError, match=r"10 traces are in 'long' and in 'short'.*do not overlap"):
        mix(
            MixConfig(parts=[long, {**short, "max_thinking_tokens": None, "min_thinking_tokens": 51}]),
            folders,
        )


def test_traces_are_repeated_evenly_where_that_is_allowed(folders: Path) -> None:
    write_attempts(folders / "chat", [trace(f"c{n}") for n in (0, 1, 2, 3, 3)], "traces")
    mix(config(folders, ("reasoning", 3), ("chat", 1), size=40, max_repeats=3), folders / "out")
    often = Counter(name for name in names(folders / "out") if name[0] == "c")
    assert sorted(often.values()) == [2, 2, 3, 3]
    rules = Counter(r["rule"] for r in read_rows(folders / "out" / "rejected" / "rows.parquet", "rejected"))
    assert rules == {"duplicate": 1, "not_drawn": 30}


def test_weights_that_cannot_be_met_are_refused_with_fixes_that_work(folders: Path) -> None:
    wanted = [("reasoning", 1.0), ("chat", 1.0)]
    with pytest.raises(ValueError, match="'chat' wants 30 traces and has 20") as caught:
        mix(config(folders, *wanted, size=60), folders / "out")
    assert not (folders / "out").exists()
    message = str(caught.value)
    size, repeats, weight = (
        re.search(p, message) for p in (r"size: (\d+)", r"repeats: (\d+)", r"weight: (\S+)")
    )
    assert size is not None
    assert repeats is not None
    assert weight is not None
    assert int(size[1]) == 41  # 21 and 20
    for number, changed in enumerate(
        [
            config(folders, *wanted, size=int(size[1])),
            config(folders, *wanted, size=60, max_repeats=int(repeats[1])),
            config(folders, ("reasoning", 1.0), ("chat", float(weight[1])), size=60),
        ]
    ):
        assert mix(changed, folders / f"fixed{number}")["rows_out"] == changed.size
    with pytest.raises(ValueError, match=r"'chat' wants .* and has 20 times max_repeats 2; set size: 81 or"):
        mix(config(folders, *wanted, size=90, max_repeats=2), folders / "out")
    with pytest.raises(ValueError, match=r"'chat' gets none of 10 traces; raise its weight or leave it out"):
        mix(config(folders, ("reasoning", 1.0), ("chat", 0.01), size=10), folders / "out")


@given(
    weights=st.lists(st.sampled_from([0.1, 0.2, 0.7, 1, 3, 1e-2, 17]), min_size=1, max_size=5),
    size=st.integers(1, 3000),
    data=st.data(),
)
def test_apportioned_rows_add_up_and_the_largest_size_is_the_largest(
    weights: list[float], size: int, data: st.DataObject
) -> None:
    exact = [Fraction(str(weight)) for weight in weights]
    shares = [weight / sum(exact) for weight in exact]
    counts = apportion(shares, size)
    assert sum(counts) == size
    assert all(abs(count - share * size) < 1 for count, share in zip(counts, shares, strict=True))
    limits = data.draw(st.lists(st.integers(1, 200), min_size=len(weights), max_size=len(weights)))
    largest = largest_size(shares, limits)

    def fits(size: int) -> bool:
        return all(c <= limit for c, limit in zip(apportion(shares, size), limits, strict=True))

    assert fits(largest)
    assert not any(fits(largest + more) for more in range(1, 30))
    parts = [Part(traces="t", weight=weight, name=str(n)) for n, weight in enumerate(weights)]
    if fits(size) and all(counts):
        assert part_sizes(parts, limits, size, 1) == counts
    else:
        with pytest.raises(ValueError, match="has" if not fits(size) else "gets none"):
            part_sizes(parts, limits, size, 1)


def test_bad_inputs_are_refused(folders: Path) -> None:
    write_attempts(folders / "test", [trace("t", role="eval")], "traces")
    with pytest.raises(ValueError, match=r"parts\[1\]: .*test: holds rows with role eval"):
        mix(config(folders, ("chat", 1), ("test", 1)), folders / "out")
    with pytest.raises(ValueError, match=r"parts\[0\]: .*nowhere has no traces\.parquet; give a folder"):
        mix(config(folders, ("nowhere", 1)), folders / "out")
    long = {"traces": str(folders / "chat"), "weight": 1, "min_thinking_tokens": 99}
    with pytest.raises(ValueError, match="'chat' has no trace of the lengths asked for"):
        mix(MixConfig(parts=[long]), folders / "out")


A, B = {"traces": "x/a", "weight": 1}, {"traces": "x/b", "weight": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": []}, "parts: give one or more"),
        ({"parts": [A, {"traces": "b"}]}, r"parts\[1\]: weight is missing"),
        ({"parts": [A, {**B, "wieght": 2}]}, r"parts\[1\]: a part has no 'wieght'; did you mean 'weight'"),
        ({"parts": [{**A, "weight": 0}]}, r"parts\[0\]: weight: 0 is not a number above 0"),
        ({"parts": [{**A, "weight": float("nan")}]}, r"parts\[0\]: weight: nan"),
        ({"parts": [A, {**B, "traces": "y/a"}]}, r"parts\[1\]: another part is called 'a' too"),
        ({"parts": [{**A, "min_thinking_tokens": 9, "max_thinking_tokens": 5}]}, "need 0 <= min <= max"),
        ({"parts": [A], "size": 0}, "size: 0 is less than 1"),
        ({"parts": [A], "size": 5, "max_repeats": 0}, "max_repeats: 0 is less than 1"),
        ({"parts": [A], "max_repeats": 2}, "max_repeats: needs `size`"),
    ],
)
def test_configs_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixConfig(**options)


def test_a_recipe_names_parts_by_the_stages_that_made_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOWTHINK_RUNS", str(tmp_path / "runs"))
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "01_curate.yaml").write_text("stage: curate\n")
    part = "- {traces: run:01_curate, weight: 1e-1}"
    (tmp_path / "p" / "02_mix.yaml").write_text(f"stage: mix\nparts:\n{part}\nsize: 5\n")
    _, (config,) = configure(load_recipe(tmp_path / "p" / "02_mix.yaml"), [MixConfig], [])
    assert config.parts[0]["traces"] == str(tmp_path / "runs" / "p" / "01_curate")
