"""Which scorer is loaded, and scorers of a user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from inference.scorers.load import ScorerOptions, kind_of, load_scorer
from inference.scorers.reward_model import save_options
from tests.inference.test_scorers import QUESTIONS, make_reward_model, reference, same


class LengthScorer:
    """A whole scorer of one's own: scorer: my_scorers:LengthScorer, scorer_options: {good_words: 4}.

    It believes in short steps.
    """

    def __init__(self, model: str, good_words: int = 8) -> None:
        self.name = f"length of {model}"
        self.good_words = good_words
        self.forwarded_tokens = 0

    def score(self, questions: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        return [[self.step(step) for step in steps] for steps in solutions]

    def step(self, step: str) -> float:
        words = len(step.split())
        self.forwarded_tokens += words
        return 1 / (1 + words / self.good_words)


class Answers:
    """Gives what it is told to."""

    def __init__(self, model: str, answer: list[list[float]]) -> None:
        self.answer = answer

    def score(self, questions: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        return self.answer


def own(name: str, **options: Any) -> ScorerOptions:
    kind = f"{__name__}:{name}"
    return ScorerOptions(scorer_model="mine", scorer=kind, scorer_options=options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A reward model as stage prm saves it."""
    reward = make_reward_model()
    reward.model.save_pretrained(tmp_path)
    reward.tokenizer.save_pretrained(tmp_path)
    save_options(tmp_path, reward.options)
    return tmp_path


@pytest.mark.parametrize("scorer", ["auto", "slowthink"])
def test_reward_model_of_stage_prm(scorer: str, folder: Path) -> None:
    options = ScorerOptions(scorer_model=str(folder), scorer=scorer, scorer_dtype="float32")
    loaded = load_scorer(options)
    assert loaded.name == str(folder)
    solutions = [["1 + 2", "3"], ["7"]]
    same(loaded.score(QUESTIONS, solutions), reference(make_reward_model(), QUESTIONS, solutions))


def test_limits_reach_the_scorer(folder: Path) -> None:
    options = ScorerOptions(scorer_model=str(folder), scorer_batch_tokens=9, scorer_max_kv_tokens=640)
    loaded: Any = load_scorer(options)
    assert (loaded.batch_tokens, loaded.kept.max_tokens) == (9, 640)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scorer": "qwen"}, "scorer: there is no 'qwen'; did you mean 'qwen_prm'"),
        ({"scorer": "zzz"}, "scorer: there is no 'zzz'; there are auto, slowthink, "),
        ({"scorer_options": {"a": 1}}, "scorer_options: scorer auto has none, not a"),
        ({"scorer_max_kv_tokens": 0}, "scorer_max_kv_tokens: 0 must be at least 1"),
        ({"scorer_batch_tokens": 0}, "scorer_batch_tokens: 0 must be at least 1"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScorerOptions(scorer_model="x", **options)


def test_models_that_cannot_be_loaded(folder: Path, tiny_model: Path) -> None:
    with pytest.raises(ValueError, match=r"auto cannot tell .*\(its architecture is Qwen2ForCausalLM"):
        load_scorer(ScorerOptions(scorer_model=str(tiny_model)))
    with pytest.raises(ValueError, match=r"auto cannot tell .*\(it has no config\.json.*slowthink, qwen_prm"):
        load_scorer(ScorerOptions(scorer_model="someone/something"))
    with pytest.raises(ValueError, match=r"scorer_model: ./nowhere does not exist"):
        load_scorer(ScorerOptions(scorer_model="./nowhere"))
    with pytest.raises(ValueError, match="is no reward model of stage prm"):
        load_scorer(ScorerOptions(scorer_model=str(tiny_model), scorer="slowthink"))


def test_known_names() -> None:
    assert kind_of("RLHFlow/Llama3.1-8B-PRM-Deepseek-Data") == "rlhflow"
    assert kind_of("peiyi9979/math-shepherd-mistral-7b-prm") == "math_shepherd"


def test_a_scorer_of_ones_own() -> None:
    scorer = load_scorer(own("LengthScorer", good_words=2))
    assert scorer.name == "length of mine"
    assert scorer.score(["q"], [["1 + 2", "3"]]) == [[0.4, pytest.approx(2 / 3)]]
    assert scorer.forwarded_tokens == 4


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([[0.5]], "scores 1 of 2 solutions"),
        ([[0.5], [0.5]], "returns 1 scores for the 2 steps of solution 1"),
        ([[0.5], [0.5, 1.5]], r"returns 1\.5 for a step of solution 1, which is not from 0 to 1"),
        ([[float("nan")], [0.5, 0.5]], "returns nan for a step of solution 0"),
    ],
)
def test_answers_of_ones_own_are_checked(answer: list[list[float]], message: str) -> None:
    scorer = load_scorer(own("Answers", answer=answer))
    with pytest.raises(ValueError, match=f"scorer: {__name__}:Answers {message}"):
        scorer.score(["q", "q"], [["1"], ["1", "2"]])


def test_classes_that_cannot_be_used() -> None:
    with pytest.raises(ValueError, match=r"scorer: cannot import 'nowhere'.*seen from the folder"):
        load_scorer(ScorerOptions(scorer_model="x", scorer="nowhere:Scorer"))
    with pytest.raises(ValueError, match="scorer: 'math' has no 'Scorer'"):
        load_scorer(ScorerOptions(scorer_model="x", scorer="math:Scorer"))
    with pytest.raises(ValueError, match=r"scorer_options: .*does not take them.*'bad_words'"):
        load_scorer(own("LengthScorer", bad_words=1))
    with pytest.raises(ValueError, match=r"builtins:str has no method score\(questions, solutions\)"):
        load_scorer(ScorerOptions(scorer_model="x", scorer="builtins:str"))
