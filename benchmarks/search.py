"""Tree search: ours against search as huggingface/search-and-learn runs it, with the same candidates.

    python -m benchmarks.search [--quick] [--model FOLDER] [--prm FOLDER] [--problems FOLDER]

Work: beam search and DVTS with N completions and width 4 (at most 40 steps, temperature 1) for problems of
the small world. By default policy, reward model and problems are those of the quickstart, in float32. Ours
searches all problems at once, and keeps the prefixes of policy and reward model between steps. The reference
(benchmarks/search_reference.py) takes one problem at a time for beam search and 25 for DVTS, puts every
prefix to the same engine as a new prompt and scores every prefix from its beginning, 4 solutions at a time.
Both take the same seeds, and `same_candidates` is the share of problems for which both end with the same
texts.

The reference's parts are timed apart, so that the table says too what ours is faster by if the reference has
a prefix cache (search-and-learn's vLLM has one) or scores all solutions of a step in one pass. Seconds of CPU
time say more than those of the clock where other work is on the machine: the `_cpu` ratios.

`beam_speedup`, `dvts_speedup`: the reference's time by ours, the smaller of those of all N.
`forwarded_per_unique_token`: tokens through policy and reward model by the different ones: each prompt once
with all nodes of its tree, and for the reward model what different solutions begin with alike once.
`overhead_share`: CPU time of the search itself, measured with the recorded answers of engine and scorer, by
that of the whole run. Of both the largest.

What limits the ratios: with so small a model a token costs less than what is done for each row of a step,
which both ways share, and DVTS has many problems in a batch on both sides. `reference_forwarded_per_ours` is
the tokens that the reference forwards without prefix cache by ours.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from transformers.utils import logging

from benchmarks.search_grown import grow
from benchmarks.search_recorded import Recorded
from benchmarks.search_reference import Beam, Reference
from data.prompts import special_tokens
from data.recipe import runs_root
from data.small_world import WAIT
from data.store import read_problems
from data.thinking import thinking_format
from inference.draw import make_prompter, render_prompts
from inference.models import load_tokenizer
from inference.scorers.reward_model import RewardModel, load_reward_model
from inference.scorers.step_scorer import StepScorer
from inference.search.driver import Searched, Task, search
from inference.search.stage import SearchConfig
from inference.search.strategies.beam import Beam as BeamSearch
from inference.search.strategies.dvts import DVTS
from inference.search.strategies.strategy import MAX_STEPS, SearchStrategy
from inference.transformers_engine import TransformersEngine

WIDTH = 4
MAX_TOKENS = 120
STRATEGIES: dict[str, type[BeamSearch | DVTS]] = {"beam": BeamSearch, "dvts": DVTS}
STAGES = {"model": "05_sft", "prm": "14_prm", "problems": "15_collect_unseen"}
"""Of the quickstart, whose outputs are the defaults."""


class Size(NamedTuple):
    """How much is searched."""

    problems: int
    completions: tuple[int, ...]


FULL = Size(32, (16, 64))
QUICK = Size(8, (16,))


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is searched, and with what."""

    config: SearchConfig
    tasks: list[Task]
    engine: TransformersEngine
    """It keeps prefixes."""
    plain: TransformersEngine
    """It keeps none."""
    reward: RewardModel
    scorer: StepScorer


class Turn(NamedTuple):
    """One of our searches of all problems."""

    seconds: float
    cpu_seconds: float
    searched: dict[str, Searched]
    """By problem."""


def make_work(model: str, prm: str, problems: str, size: Size) -> Work:
    """Load everything. Special tokens, which the reward model refuses in a step, are never generated."""
    tokenizer: Any = load_tokenizer(model)
    config = SearchConfig(
        problems=problems,
        strategies=[{"strategy": "beam", "n": WIDTH}],
        model_name_or_path=model,
        scorer_model=prm,
        dtype="float32",
        batch_size=256,
        max_tokens=MAX_TOKENS,
        temperature=1.0,
        bad_words=[WAIT, *sorted(special_tokens(tokenizer) - {tokenizer.eos_token})],
        step_separator="\n",
    )
    limits = {"dtype": config.dtype, "batch_size": config.batch_size}
    engine = TransformersEngine.load(model, prefix_cache_tokens=config.prefix_cache_tokens, **limits)
    prompter = make_prompter(config, engine)
    some = read_problems(problems)[: size.problems]
    prompts, _ = render_prompts(some, prompter, engine.max_model_tokens - config.max_tokens, "")
    reward = load_reward_model(prm, dtype="float32")
    return Work(
        config=config,
        tasks=[(problem, prompts[problem.id]) for problem in some if problem.id in prompts],
        engine=engine,
        plain=TransformersEngine.load(model, **limits),
        reward=reward,
        scorer=StepScorer.of(reward),
    )


# ------------------------------------------------------------------ ours


def ours(work: Work, strategy: SearchStrategy, engine: Any = None, scorer: Any = None) -> Turn:
    """All problems, with nothing kept from before."""
    work.engine.forget()
    work.scorer.forget()
    engine, scorer = engine or work.engine, scorer or work.scorer
    budget, form = work.config.search_budget(work.engine), thinking_format(work.config.thinking_format)
    begin, cpu_begin = time.perf_counter(), time.process_time()
    lots = list(search(work.tasks, engine, scorer, strategy, budget, form))
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    return Turn(seconds, cpu_seconds, {one.tree.problem.id: one for lot in lots for one in lot})


def accounts(work: Work, strategy: SearchStrategy) -> dict[str, float]:
    """A recorded run: tokens forwarded and different ones, and seconds of the search alone."""
    engine, scorer = Recorded(work.engine), Recorded(work.scorer)
    before = work.engine.forwarded_tokens, work.scorer.forwarded_tokens
    turn = ours(work, strategy, engine, scorer)
    result: dict[str, float] = {
        "policy_forwarded": work.engine.forwarded_tokens - before[0],
        "scorer_forwarded": work.scorer.forwarded_tokens - before[1],
        "policy_unique": sum(unique_tokens(one) for one in turn.searched.values()),
        "scorer_unique": unique_scored(work.reward, scorer.inputs),
    }
    alone = []
    for _ in range(3):
        engine.replay()
        scorer.replay()
        replayed = ours(work, strategy, engine, scorer)
        assert candidates(replayed) == candidates(turn)
        alone.append(replayed.cpu_seconds)
    return result | {"alone_cpu_seconds": median(alone)}


def unique_tokens(searched: Searched) -> int:
    return searched.cost.prompt_tokens + searched.cost.generated_tokens


def unique_scored(reward: RewardModel, calls: Sequence[tuple[Sequence[str], Sequence[Sequence[str]]]]) -> int:
    """Tokens of all solutions up to the last judged one; what they begin with alike counts once."""
    different = {
        (question, tuple(steps))
        for questions, solutions in calls
        for question, steps in zip(questions, solutions, strict=True)
    }
    seen: set[tuple[int, ...]] = set()
    for question, steps in different:
        encoded = reward.step_format.encode(question, steps)
        ids = tuple(encoded.ids[: encoded.ends[-1] + 1])
        seen.update(ids[:end] for end in range(1, len(ids) + 1))
    return len(seen)


def candidates(turn: Turn) -> dict[str, list[str]]:
    """Texts of each problem's candidates."""
    return {id: sorted(one.tree.text(node) for node in one.candidates) for id, one in turn.searched.items()}


# ------------------------------------------------------------------ measuring

REFERENCES = {
    "reference": ("generate", "score_4"),
    "reference, solutions of a step scored in one pass": ("generate", "score_all"),
    "reference with a prefix cache": ("generate_kept", "score_4"),
    "reference with both": ("generate_kept", "score_all"),
}
"""Ways of the reference by the parts that they consist of."""
KEYS = {
    "reference": "speedup",
    "reference, solutions of a step scored in one pass": "speedup_one_pass",
    "reference with a prefix cache": "speedup_prefix_cache",
    "reference with both": "speedup_both",
}


def reference(
    work: Work, label: str, n: int
) -> tuple[dict[str, tuple[float, float]], dict[str, list[str]], int]:
    """The reference's search of all problems: (seconds, CPU seconds) of each way, candidates' texts, and the
    tokens that are forwarded without prefix cache."""
    form = thinking_format(work.config.thinking_format)
    work.engine.forget()
    before = work.plain.forwarded_tokens
    made = Reference(work.plain, work.engine, work.reward, work.config.search_budget(work.engine), form)
    way = {"beam": made.beam, "dvts": made.dvts}[label]
    with made.timed("all"):
        found: list[list[Beam]] = way(work.tasks, n, WIDTH, MAX_STEPS)
    texts = {
        task[0].id: sorted(beam.text for beam in beams) for task, beams in zip(work.tasks, found, strict=True)
    }
    clock, cpu = made.seconds, made.cpu_seconds
    of_all = made.scored_tokens + work.plain.forwarded_tokens - before
    ways = {
        name: tuple(2 * of["all"] - sum(of.values()) + sum(of[part] for part in parts) for of in (clock, cpu))
        for name, parts in REFERENCES.items()
    }
    return ways, texts, of_all  # type: ignore[return-value]


def compare(work: Work, label: str, n: int) -> dict[str, Any]:
    """Ours, the reference, ours again; prints a table."""
    strategy = STRATEGIES[label](n=n, width=WIDTH)
    first = ours(work, strategy)
    theirs, texts, their_tokens = reference(work, label, n)
    turns = [first, ours(work, strategy)]
    seconds, cpu = mean(t.seconds for t in turns), mean(t.cpu_seconds for t in turns)
    found = candidates(first)
    counted = accounts(work, strategy)
    forwarded = counted["policy_forwarded"] + counted["scorer_forwarded"]
    result: dict[str, Any] = {
        "same_candidates": mean(found[id] == own for id, own in texts.items()),
        "forwarded_per_unique_token": forwarded / (counted["policy_unique"] + counted["scorer_unique"]),
        "overhead_share": counted["alone_cpu_seconds"] / cpu,
        "reference_forwarded_per_ours": their_tokens / forwarded,
        **counted,
    }
    print(f"\n{strategy.title}: {len(work.tasks)} problems, {sum(map(len, found.values()))} candidates\n")
    print("| way | seconds | CPU seconds | ours is faster by | by CPU time |\n|---|---|---|---|---|")
    print(f"| ours | {seconds:.2f} | {cpu:.2f} | 1 | 1 |")
    for name, (its_seconds, its_cpu) in theirs.items():
        ratio, ratio_cpu = its_seconds / seconds, its_cpu / cpu
        result |= {KEYS[name]: ratio, f"{KEYS[name]}_cpu": ratio_cpu}
        print(f"| {name} | {its_seconds:.2f} | {its_cpu:.2f} | {ratio:.2f} | {ratio_cpu:.2f} |", flush=True)
    shares = {key: round(value, 4) for key, value in result.items() if not key.startswith("speedup")}
    print(f"\n{shares}", flush=True)
    return result


def run(work: Work, size: Size) -> dict[str, Any]:
    """All settings; returns the last line."""
    for strategy in (STRATEGIES["beam"](n=WIDTH), STRATEGIES["dvts"](n=WIDTH)):
        ours(work, strategy)
    settings = {(label, n): compare(work, label, n) for label in STRATEGIES for n in size.completions}
    result: dict[str, Any] = {"benchmark": "search", "model": work.engine.name, "problems": len(work.tasks)}
    for label in STRATEGIES:
        own = [values for (of, _), values in settings.items() if of == label]
        for key in KEYS.values():
            for kind in ("", "_cpu"):
                result[f"{label}_{key}{kind}"] = round(min(values[f"{key}{kind}"] for values in own), 2)
    for key in ("forwarded_per_unique_token", "overhead_share"):
        result[key] = round(max(values[key] for values in settings.values()), 4)
    result["same_candidates"] = min(values["same_candidates"] for values in settings.values())
    result["settings"] = {
        f"{label}_{n}": {key: round(value, 4) for key, value in values.items()}
        for (label, n), values in settings.items()
    }
    return result | {"load_average": round(os.getloadavg()[0], 1)}


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.search", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="8 problems, N 16")
    for name, stage in STAGES.items():
        default = str(runs_root() / "quickstart" / stage)
        parser.add_argument(f"--{name}", default=default, help=f"folder of the {name}; by default {default}")
    parser.add_argument("--threads", type=int, default=1, help="of torch, for both")
    parser.add_argument(
        "--grow",
        nargs=2,
        type=int,
        metavar=("LAYERS", "WIDTH"),
        help="both models with so many layers and so wide feed-forward ones, which change no text",
    )
    options = parser.parse_args()
    folders = {name: getattr(options, name) for name in STAGES}
    if absent := [folder for folder in folders.values() if not Path(folder).is_dir()]:
        parser.error(
            f"{absent[0]} is absent: run `slowthink run recipes/quickstart` (or name your own folder)"
        )
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    size = QUICK if options.quick else FULL
    with TemporaryDirectory() as grown:
        if options.grow:
            for name in ("model", "prm"):
                source, folders[name] = folders[name], f"{grown}/{name}"
                print(f"{name}: {grow(Path(source), Path(folders[name]), *options.grow):,} parameters")
        print(json.dumps(run(make_work(**folders, size=size), size) | {"threads": options.threads}))


if __name__ == "__main__":
    main()
