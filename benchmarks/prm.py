"""Scores of growing solutions: our incremental scorer against scoring every prefix anew, on the CPU.

    python -m benchmarks.prm [--quick] [--smollm] [--threads N]

Work: 8 problems with 4 branches each, as in a search; the branches grow by one step at a time to 20, and at
every fourth step half of the branches of a problem are dropped and the others go on twice. After each step
every branch is scored. Models, in float32, with a head of random weights: a Llama with random weights (hidden
size 256, 8 layers), or SmolLM2-135M-Instruct (2 problems, 12 steps).

Reference: every prefix anew, all branches in one batch that is padded to the longest, the head at every token
(huggingface/search-and-learn@6f81cac:src/sal/models/reward_models.py, in our own words; its keys and values
are thrown away). Both take turns; a first small call is not timed. Both are given the same token ids.

`speedup_vs_reencode` is the reference's time by ours, the median over the rounds (with other work on the
machine, that of CPU time says more); `forwarded_per_unique_token` is our forwarded tokens by those of the
solutions, where what solutions begin with alike counts once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from transformers.utils import logging

from data.small_world import build_tokenizer
from inference.models import cached_folder, load_tokenizer
from inference.scorers.reward_model import RewardModel, RewardModelOptions, judge, load_weights
from inference.scorers.step_scorer import StepScorer

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
WORDS = [str(number) for number in range(100)]
FORK_EVERY = 4

Score = Callable[[Sequence[str], Sequence[Sequence[str]]], list[list[float]]]
Branch = tuple[str, list[str]]
"""A question and the steps so far."""


class Size(NamedTuple):
    """How much is scored."""

    problems: int
    branches: int
    """Of each problem."""
    steps: int
    numbers: tuple[int, int]
    """Fewest and most numbers of a step."""
    rounds: int


FULL = Size(8, 4, 20, (3, 12), 3)
SMOLLM = Size(2, 4, 12, (3, 8), 1)
QUICK = Size(2, 2, 4, (2, 4), 1)


class Turn(NamedTuple):
    seconds: float
    cpu_seconds: float
    scores: list[list[list[float]]]
    """Of each step of the search, each branch, each step of the branch."""


def small_model(hidden_size: int = 256, layers: int = 8) -> RewardModel:
    """A Llama with random weights and the small world's tokenizer."""
    from transformers import AutoModelForTokenClassification, LlamaConfig

    torch.manual_seed(0)
    tokenizer: Any = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden_size // 32),
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.num_labels = 2
    model = AutoModelForTokenClassification.from_config(config, dtype=torch.float32).eval()
    return RewardModel(name="random", model=model, tokenizer=tokenizer, options=RewardModelOptions())


def smollm2() -> RewardModel:
    """SmolLM2-135M-Instruct with a new head.

    Raises:
        ValueError: it is not at hand.
    """
    if not cached_folder(SMOLLM2).is_dir():
        raise ValueError(f"{SMOLLM2} is absent: run `slowthink fetch-model smollm2`")
    torch.manual_seed(0)
    options = RewardModelOptions()
    model = load_weights(SMOLLM2, options, dtype=torch.float32).eval()
    return RewardModel(name=SMOLLM2, model=model, tokenizer=load_tokenizer(SMOLLM2), options=options)


def make_search(size: Size, seed: int = 0) -> list[list[Branch]]:
    """What is scored after each step of the search."""
    draw = random.Random(seed)
    beams: list[list[list[str]]] = [[[] for _ in range(size.branches)] for _ in range(size.problems)]
    search = []
    for step in range(size.steps):
        if step and step % FORK_EVERY == 0:
            kept = (size.branches + 1) // 2
            beams = [(draw.sample(beam, kept) * 2)[: size.branches] for beam in beams]
        beams = [[[*steps, make_step(draw, size.numbers)] for steps in beam] for beam in beams]
        search.append(
            [(f"What is {number} + 7 * {number}?", s) for number, beam in enumerate(beams) for s in beam]
        )
    return search


def make_step(draw: random.Random, numbers: tuple[int, int]) -> str:
    return " + ".join(draw.choices(WORDS, k=draw.randint(*numbers)))


def reencode(
    reward: RewardModel, questions: Sequence[str], solutions: Sequence[Sequence[str]]
) -> list[list[float]]:
    """The reference: all solutions in full, padded on the right."""
    step_format = reward.step_format
    encoded = [step_format.encode(q, steps) for q, steps in zip(questions, solutions, strict=True)]
    width = max(len(steps.ids) for steps in encoded)
    ids = [steps.ids + [0] * (width - len(steps.ids)) for steps in encoded]
    mask = [[1] * len(steps.ids) + [0] * (width - len(steps.ids)) for steps in encoded]
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "use_cache": False}
    with torch.inference_mode():
        logits = judge(reward.model, inputs, torch.arange(width), None)
    right = logits.softmax(-1)[..., 1].tolist()
    return [[scores[end] for end in steps.ends] for scores, steps in zip(right, encoded, strict=True)]


def unique_tokens(reward: RewardModel, search: Sequence[Sequence[Branch]]) -> int:
    """Tokens of all solutions, what they begin with alike counted once."""
    step_format, seen = reward.step_format, set()
    for question, steps in {(q, tuple(s)) for branches in search for q, s in branches}:
        prefix = 0
        for token in step_format.encode(question, steps).ids:
            prefix = hash((prefix, token))
            seen.add(prefix)
    return len(seen)


def timed(score: Score, search: Sequence[Sequence[Branch]]) -> Turn:
    begin, cpu_begin, scores = time.perf_counter(), time.process_time(), []
    for branches in search:
        scores.append(score([question for question, _ in branches], [steps for _, steps in branches]))
        assert [len(found) for found in scores[-1]] == [len(steps) for _, steps in branches]
    return Turn(time.perf_counter() - begin, time.process_time() - cpu_begin, scores)


def largest_difference(ours: Turn, theirs: Turn) -> float:
    pairs = zip(flat(ours), flat(theirs), strict=True)
    return max(abs(mine - its) for mine, its in pairs)


def flat(turn: Turn) -> list[float]:
    return [score for branches in turn.scores for steps in branches for score in steps]


def run(reward: RewardModel, size: Size) -> dict[str, Any]:
    """All rounds; prints the table and returns the last line."""
    search = make_search(size)
    scorer = StepScorer.of(reward)
    ways: dict[str, Score] = {
        "ours": scorer.score,
        "reencode": lambda questions, solutions: reencode(reward, questions, solutions),
    }
    for score in ways.values():
        timed(score, make_search(QUICK, seed=1)[:2])
    turns: dict[str, list[Turn]] = {name: [] for name in ways}
    for number in range(size.rounds):
        scorer.forget()
        before = scorer.forwarded_tokens
        for name in sorted(ways, reverse=number % 2 == 1):
            turns[name].append(timed(ways[name], search))
    forwarded, unique = scorer.forwarded_tokens - before, unique_tokens(reward, search)
    both = list(zip(turns["ours"], turns["reencode"], strict=True))
    rounds = [round(theirs.seconds / ours.seconds, 2) for ours, theirs in both]
    print(f"{reward.name}: {len(search)} calls, {len(search[0])} branches, {unique} unique tokens\n")
    print("| way | seconds | CPU seconds |\n|---|---|---|")
    for name, of_way in turns.items():
        seconds = median(turn.seconds for turn in of_way)
        cpu = median(turn.cpu_seconds for turn in of_way)
        print(f"| {name} | {seconds:.2f} | {cpu:.2f} |")
    return {
        "benchmark": "prm",
        "model": reward.name,
        "speedup_vs_reencode": round(median(rounds), 2),
        "speedup_vs_reencode_rounds": rounds,
        "speedup_vs_reencode_cpu": round(median(t.cpu_seconds / o.cpu_seconds for o, t in both), 2),
        "forwarded_per_unique_token": round(forwarded / unique, 4),
        "largest_score_difference": max(largest_difference(ours, theirs) for ours, theirs in both),
        "score_range": round(max(flat(both[0][0])) - min(flat(both[0][0])), 4),
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.prm", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few short branches, a tiny model, one round")
    parser.add_argument(
        "--smollm", action="store_true", help="SmolLM2-135M-Instruct, fewer branches and steps"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch, for both")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    size = QUICK if options.quick else FULL
    if options.smollm:
        reward, size = smollm2(), QUICK if options.quick else SMOLLM
    else:
        reward = small_model(32, 2) if options.quick else small_model()
    print(json.dumps(run(reward, size) | {"threads": options.threads}))


if __name__ == "__main__":
    main()
