"""`benchmarks.search`: both ways end with the same candidates, tokens are counted as they should be, a replay
answers as the run did, the last line is one JSON object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks import prm, search
from benchmarks.engines_reference import save_small_model
from benchmarks.search import Size, Work, candidates, make_work, ours, reference, unique_scored
from benchmarks.search_grown import grow
from benchmarks.search_recorded import Recorded
from data.small_world import generate_problems
from data.store import write_problems
from inference.scorers.reward_model import RewardModelOptions, save_options

N = 8
SIZE = Size(2, (N,))
WRITTEN = {"1", "2", "\n"}


@pytest.fixture(autouse=True, scope="module")
def few_tokens() -> Iterator[None]:
    """The random policy writes few different tokens, so that its steps are short."""
    kept = WRITTEN | {"<|im_end|>"}

    def banned(tokenizer: Any) -> set[str]:
        alone = {text for text, id in tokenizer.get_vocab().items() if tokenizer.decode(id) == text}
        return {text for text in alone if len(tokenizer(text)["input_ids"]) == 1} - kept

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "special_tokens", banned)
        patch.setattr(search, "MAX_TOKENS", 24)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A policy and a reward model with random weights, and problems."""
    root = tmp_path_factory.mktemp("search")
    reward = prm.small_model(32, 2)
    reward.model.save_pretrained(root / "prm")
    reward.tokenizer.save_pretrained(root / "prm")
    save_options(root / "prm", RewardModelOptions(step_separator="\n"))
    (root / "problems").mkdir()
    write_problems(root / "problems", generate_problems(3, 0, "eval", 4, 8))
    model = save_small_model(root / "model")
    return {"model": str(model), "prm": str(root / "prm"), "problems": str(root / "problems")}


@pytest.fixture(scope="module")
def work(folders: dict[str, str]) -> Work:
    return make_work(**folders, size=SIZE)


@pytest.mark.parametrize("label", list(search.STRATEGIES))
def test_both_ways_find_the_same(work: Work, label: str) -> None:
    turn = ours(work, search.STRATEGIES[label](n=N, width=search.WIDTH))
    ways, texts, forwarded = reference(work, label, N)
    assert forwarded > sum(one.cost.generated_tokens for one in turn.searched.values())
    assert candidates(turn) == texts
    assert sum(map(len, texts.values())) > N
    assert max(len(text.splitlines()) for own in texts.values() for text in own) > 2
    assert set(ways) == set(search.REFERENCES)
    assert all(of_way > 0 for seconds in ways.values() for of_way in seconds)


def test_a_replay_answers_as_the_run_did(work: Work) -> None:
    strategy = search.STRATEGIES["beam"](n=N, width=search.WIDTH)
    engine, scorer = Recorded(work.engine), Recorded(work.scorer)
    first = ours(work, strategy, engine, scorer)
    before = work.engine.forwarded_tokens, work.scorer.forwarded_tokens
    engine.replay()
    scorer.replay()
    again = ours(work, strategy, engine, scorer)
    assert (work.engine.forwarded_tokens, work.scorer.forwarded_tokens) == before
    for id, searched in first.searched.items():
        assert searched.cost.scorer_tokens == again.searched[id].cost.scorer_tokens
        nodes, others = searched.tree.nodes, again.searched[id].tree.nodes
        assert [(node.token_ids, node.score) for node in nodes[1:]] == [
            (node.token_ids, node.score) for node in others[1:]
        ]


def test_what_solutions_begin_with_alike_counts_once(work: Work) -> None:
    def tokens(*solutions: list[str]) -> int:
        return unique_scored(work.reward, [(["2+2"] * len(solutions), solutions)])

    one, both = tokens(["A"]), tokens(["A"], ["A", "B"])
    assert tokens(["A"], ["A"]) == one
    assert both == tokens(["A", "B"]) > one
    assert tokens(["A", "B"], ["A", "C"]) == both + (both - one)


def test_last_line(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search, "QUICK", SIZE)
    given = [part for name, folder in folders.items() for part in (f"--{name}", folder)]
    monkeypatch.setattr("sys.argv", ["search", "--quick", *given])
    search.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"beam_speedup", "dvts_speedup", "forwarded_per_unique_token", "overhead_share"} <= set(result)
    assert result["same_candidates"] == 1
    assert 0 < result["forwarded_per_unique_token"] < 1.15
    assert set(result["settings"]) == {f"beam_{N}", f"dvts_{N}"}


def test_absent_models_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLOWTHINK_RUNS", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["search"])
    with pytest.raises(SystemExit):
        search.main()
    error = capsys.readouterr().err
    assert str(tmp_path / "quickstart" / "05_sft") in error
    assert "slowthink run recipes/quickstart" in error


def test_a_grown_model_computes_the_same(folders: dict[str, str], tmp_path: Path) -> None:
    small = AutoModelForCausalLM.from_pretrained(folders["model"], dtype=torch.float32)
    parameters = grow(Path(folders["model"]), tmp_path / "grown", small.config.num_hidden_layers + 2, 300)
    grown = AutoModelForCausalLM.from_pretrained(tmp_path / "grown", dtype=torch.float32)
    assert parameters == sum(p.numel() for p in grown.parameters()) > 1.5 * small.num_parameters()
    ids = torch.arange(60).reshape(2, 30)
    torch.testing.assert_close(grown(ids).logits, small(ids).logits)
    with pytest.raises(ValueError, match=r"--grow: .* has 2 layers of"):
        grow(Path(folders["model"]), tmp_path / "again", 1, 300)
