"""Generation: our engine for transformers models against transformers' own `generate`, on the CPU.

    python -m benchmarks.engines [--quick] [--threads N] [--small-only]

Work: requests in arrival order whose outputs differ in length (`max_tokens` log-uniform, no token ends a
sequence before) and so do their prompts; half of the requests are one of 4 samples of a prompt. Models: the
small one of the quickstart with random weights, and SmolLM2-135M-Instruct where it is at hand. All in float32
at temperature 1, the same rows at a time, in turns; speed is in useful tokens, those that were asked for.

References: plain `generate` on padded batches, each of which ends with its longest row, and transformers'
continuous batching, which has the limit of each request too. Ratios are medians over the rounds (SmolLM2: one
round); the headline is that of the model for which it is smaller. With other work on the machine, seconds of
CPU time say more than those of the clock: the `_cpu` ratios. One thread by default, since two of them wait
for each other whenever other work has a core.

What limits ours with one thread. The small model: the many small operations of transformers' forward (about
40 % of the time), attention (27 %; it is as wide for each row as the longest one), choosing tokens (11 %) and
matrix products (11 %). SmolLM2: matrix products (over 70 %), which all ways share.

Forwarded tokens: rows that go on 4 times with a text put in, as in budget forcing, through `follow`, against
a new call for every round (as in simplescaling/s1), by tokens of the final sequences.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from transformers.utils import logging

from benchmarks.engines_reference import (
    ContinuousBatching,
    generate_padded,
    make_requests,
    save_small_model,
)
from inference.engine import Generation, Request
from inference.models import cached_folder, load_model
from inference.transformers_engine import TransformersEngine

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
WAYS = ("ours", "generate", "continuous_batching")
WAIT_TEXT = "Wait,"
WAITS = 4

Generate = Callable[[Sequence[Request]], list[list[int]]]
"""Requests -> tokens of each output."""


class Size(NamedTuple):
    """How much is measured of one model; lengths are in tokens."""

    requests: int
    batch: int
    prompt: tuple[int, int]
    output: tuple[int, int]
    rounds: int
    checked: int
    """Rows whose greedy tokens are compared with those of `generate`."""


class Turn(NamedTuple):
    """One way doing all of the work; CPU time of this process."""

    seconds: float
    cpu_seconds: float


FULL = {
    "small": Size(96, 32, (20, 300), (16, 512), 3, 32),
    "smollm2": Size(32, 8, (20, 300), (8, 96), 1, 4),
}
QUICK = {
    "small": Size(16, 4, (20, 60), (4, 64), 1, 8),
    "smollm2": Size(4, 2, (10, 20), (2, 8), 1, 2),
}


def outputs(engine: TransformersEngine, requests: Sequence[Request], **options: Any) -> list[list[int]]:
    """Tokens of each output of our engine."""
    made = dict(pair for part in engine.generate(requests, **options) for pair in part)
    return [made[index].token_ids for index in range(len(requests))]


def timed(generate: Generate, requests: Sequence[Request]) -> Turn:
    begin, cpu_begin = time.perf_counter(), time.process_time()
    made = generate(requests)
    turn = Turn(time.perf_counter() - begin, time.process_time() - cpu_begin)
    assert [len(ids) for ids in made] == [request.params.max_tokens for request in requests]
    return turn


def take_turns(ways: dict[str, Generate], requests: Sequence[Request], rounds: int) -> dict[str, list[Turn]]:
    """Each way on all of the work in every round; the order turns. A first small call is not timed."""
    for generate in ways.values():
        generate([replace(r, params=replace(r.params, max_tokens=2)) for r in requests[:2]])
    turns: dict[str, list[Turn]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in sorted(ways, reverse=number % 2 == 1):
            turns[name].append(timed(ways[name], requests))
    return turns


def greedy_share(engine: TransformersEngine, plain: Any, requests: Sequence[Request], batch: int) -> float:
    """Share of outputs that are those of `generate` to the last token, both greedy."""
    greedy = [replace(r, params=replace(r.params, temperature=0.0)) for r in requests]
    pairs = zip(outputs(engine, greedy), generate_padded(plain, greedy, batch), strict=True)
    return sum(ours == theirs for ours, theirs in pairs) / len(greedy)


def speed(name: str, engine: TransformersEngine, size: Size) -> dict[str, Any]:
    """All ways in turns for one model; prints its table. Keys end with the name."""
    # one model for each: continuous batching puts its own attention into the one that it is given
    plain, paged = (load_model(engine.name, dtype="float32") for _ in range(2))
    requests = make_requests(engine.tokenizer, size.requests, size.prompt, size.output)
    useful = sum(request.params.max_tokens for request in requests)
    longest = max(len(request.prompt_ids) + request.params.max_tokens for request in requests)
    with ContinuousBatching(paged, size.batch, longest, requests[0].params.temperature) as continuous:
        ways: dict[str, Generate] = {
            "ours": lambda work: outputs(engine, work),
            "generate": lambda work: generate_padded(plain, work, size.batch),
            "continuous_batching": continuous.generate,
        }
        turns = take_turns(ways, requests, size.rounds)
    result: dict[str, Any] = {}
    for way in WAYS[1:]:
        both = list(zip(turns["ours"], turns[way], strict=True))
        rounds = [round(its.seconds / mine.seconds, 2) for mine, its in both]
        result[f"speedup_vs_{way}_{name}"] = round(median(rounds), 2)
        result[f"speedup_vs_{way}_{name}_rounds"] = rounds
        of_cpu = median(its.cpu_seconds / mine.cpu_seconds for mine, its in both)
        result[f"speedup_vs_{way}_{name}_cpu"] = round(of_cpu, 2)
    same = greedy_share(engine, plain, requests[: size.checked], size.batch)
    print(f"\n{name}: {len(requests)} requests, {useful} useful tokens, {size.batch} rows at a time")
    print(f"greedy outputs equal to generate's: {same:.0%} of {size.checked}\n")
    print("| way | useful tokens/s | CPU seconds | ours is faster by |\n|---|---|---|---|")
    for way in WAYS:
        rate = round(useful / median(turn.seconds for turn in turns[way]), 1)
        result[f"{way}_tokens_per_second_{name}"] = rate
        cpu, ratio = (
            median(turn.cpu_seconds for turn in turns[way]),
            result.get(f"speedup_vs_{way}_{name}", 1),
        )
        print(f"| {way} | {rate} | {cpu:.1f} | {ratio} |", flush=True)
    return result | {f"greedy_equal_{name}": same, f"useful_tokens_{name}": useful}


def forwarded(engine: TransformersEngine, size: Size) -> dict[str, Any]:
    """Tokens through the model by tokens of the final sequences, where every row goes on `WAITS` times."""
    wait = tuple(engine.tokenizer(WAIT_TEXT, add_special_tokens=False)["input_ids"])
    output = size.output[0], size.output[1] // 8
    made = make_requests(engine.tokenizer, 2 * size.batch, size.prompt, output)
    requests = list({request.prompt_ids: request for request in made}.values())
    counts, lengths, seconds = {}, {}, {}
    for way, rounds in (("follow", through_follow), ("calls", by_calls)):
        before, begin = engine.forwarded_tokens, time.perf_counter()
        lengths[way] = rounds(engine, requests, wait)
        counts[way], seconds[way] = engine.forwarded_tokens - before, time.perf_counter() - begin
    assert lengths["follow"] == lengths["calls"]
    result = {
        "forwarded_per_final_token": round(counts["follow"] / lengths["follow"], 3),
        "forwarded_per_final_token_new_calls": round(counts["calls"] / lengths["calls"], 3),
        "follow_speedup_vs_new_calls": round(seconds["calls"] / seconds["follow"], 2),
    }
    final = f"{lengths['follow']} final tokens"
    print(f"\n{len(requests)} rows going on {WAITS} times, {final}: {result}", flush=True)
    return result


def longer(request: Request, generation: Generation, wait: tuple[int, ...]) -> Request:
    return replace(request, prompt_ids=(*request.prompt_ids, *generation.token_ids, *wait))


def through_follow(engine: TransformersEngine, requests: Sequence[Request], wait: tuple[int, ...]) -> int:
    """Tokens of the final sequences, prompts included."""
    now, left = list(requests), [WAITS] * len(requests)

    def follow(index: int, generation: Generation) -> Request | None:
        if not left[index]:
            return None
        left[index] -= 1
        now[index] = longer(now[index], generation, wait)
        return now[index]

    last = outputs(engine, requests, follow=follow)
    return sum(len(row.prompt_ids) + len(ids) for row, ids in zip(now, last, strict=True))


def by_calls(engine: TransformersEngine, requests: Sequence[Request], wait: tuple[int, ...]) -> int:
    """As `through_follow`, with a new call for every round."""
    now = list(requests)
    for number in range(WAITS + 1):
        made = dict(pair for part in engine.generate(now) for pair in part)
        if number < WAITS:
            now = [longer(row, made[index], wait) for index, row in enumerate(now)]
    return sum(len(row.prompt_ids) + len(made[index].token_ids) for index, row in enumerate(now))


def run(sizes: dict[str, Size]) -> dict[str, Any]:
    """All measurements; returns the last line."""
    result: dict[str, Any] = {"benchmark": "engines"}
    with tempfile.TemporaryDirectory() as folder:
        models = {"small": str(save_small_model(Path(folder))), "smollm2": SMOLLM2}
        for name, size in sizes.items():
            if name == "smollm2" and not cached_folder(SMOLLM2).is_dir():
                result["smollm2_skipped"] = f"{SMOLLM2} is absent: run `slowthink fetch-model smollm2`"
                print(f"\n{result['smollm2_skipped']}", flush=True)
                continue
            engine = TransformersEngine.load(models[name], dtype="float32", batch_size=size.batch)
            engine.end_ids = []
            result |= speed(name, engine, size)
            if name == "small":
                result |= forwarded(engine, size)
    for way in WAYS[1:]:
        for kind in ("", "_cpu"):
            keys = [f"speedup_vs_{way}_{name}{kind}" for name in sizes]
            result[f"speedup_vs_{way}{kind}"] = min(result[key] for key in keys if key in result)
    return result | {"load_average": round(os.getloadavg()[0], 1)}


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.engines", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few short requests, one round")
    parser.add_argument("--threads", type=int, default=1, help="of torch, for all ways")
    parser.add_argument("--small-only", action="store_true", help="without SmolLM2")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    sizes = QUICK if options.quick else FULL
    if options.small_only:
        sizes = {"small": sizes["small"]}
    print(json.dumps(run(sizes) | {"threads": options.threads}))


if __name__ == "__main__":
    main()
