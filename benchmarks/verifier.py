"""Answer verification: errors, speed, scaling and bounds of ours, with math-verify beside it.

    python -m benchmarks.verifier [--quick] [--data FOLDER] [--verbose]

Quality: labelled pairs. A false positive is a wrong answer called correct, a false negative a right one not
called correct, also where the grader does not judge. Rows whose label is a question of policy do not count.
Most labels of pairs.jsonl are what several graders agree on, math-verify among them, so it cannot be wrong
there; the hard pairs are labelled by hand or by unit tests. Ours was developed with the hard pairs at hand,
so its errors on them say little about pairs that it has not seen.

Speed: real completions and bare answers. In each block both sides grade the same pairs, in turns; blocks are
disjoint, and ours begins each with empty caches. Ours includes the last tier with one worker process, while
which the caller waits: one core at a time, as the reference. Both have graded another pair before; starting
the worker is timed apart.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.verifier_reference import (
    BATCH,
    LAST_TIER,
    Pair,
    bomb,
    completions,
    default_grader,
    forget,
    labelled,
    ours,
    quality,
    sample,
)
from rewards import algebra, compare
from rewards.verify import verify_many

ROOT = Path(__file__).resolve().parent.parent
LAST_RULES = ("algebra", "undecided", "timeout")
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20
ONE_WORKER = algebra.Limits(processes=1)


class Size(NamedTuple):
    """How much of the data is used; None is all."""

    labelled: int | None
    others: int | None
    block: int
    blocks: int
    scaling: int | None
    rounds: int
    batch: int
    batch_seconds: float
    leak: tuple[int, ...]


FULL = Size(
    None, None, 200, 15, None, 5, 10_000, algebra.DEFAULT_LIMITS.batch_seconds, (100_000, 500_000, 10**6)
)
QUICK = Size(80, 80, 40, 3, 2_000, 1, 500, 5.0, ())


# ---------------------------------------------------------------- speed


def start_worker() -> float:
    """Seconds until one fresh worker has answered."""
    algebra._pool().close()
    forget()
    begin = time.perf_counter()
    rule = ours([LAST_TIER], ONE_WORKER)[0].rule
    assert rule in ("algebra", "undecided"), rule
    return time.perf_counter() - begin


def take_turns(pairs: Sequence[Pair], size: Size) -> tuple[list[float], list[float], Counter[str], int]:
    """(our seconds by block, the reference's, outcomes of both by pair, pairs that reached our last tier)."""
    seconds: dict[str, list[float]] = {"ours": [], "reference": []}
    outcomes, last_tier = Counter[str](), 0
    for number, first in enumerate(range(0, min(len(pairs), size.block * size.blocks), size.block)):
        block, verdicts, theirs = pairs[first : first + size.block], [], []
        for side in sorted(seconds, reverse=number % 2 == 1):
            forget()
            begin = time.perf_counter()
            if side == "ours":
                verdicts = ours(block, ONE_WORKER)
            else:
                theirs = default_grader(block)
            seconds[side].append(time.perf_counter() - begin)
        outcomes.update(f"{mine.outcome} and {its}" for mine, its in zip(verdicts, theirs, strict=True))
        last_tier += sum(verdict.rule in LAST_RULES for verdict in verdicts)
    return seconds["ours"], seconds["reference"], outcomes, last_tier


def speed(pairs: Sequence[Pair], size: Size) -> dict[str, Any]:
    """Blocks in turns, then ours with its defaults over all pairs; prints the table."""
    start_seconds = start_worker()
    default_grader([LAST_TIER])
    ours_seconds, reference_seconds, outcomes, last_tier = take_turns(pairs, size)
    forget()
    begin = time.perf_counter()
    ours(pairs)
    rate = len(pairs) / (time.perf_counter() - begin)
    ratios = [its / mine for mine, its in zip(ours_seconds, reference_seconds, strict=True)]
    count = outcomes.total()
    result = {
        "speedup_vs_math_verify": round(median(ratios), 1),
        "speedup_smallest_block": round(min(ratios), 1),
        "speedup_largest_block": round(max(ratios), 1),
        "speedup_total_time": round(sum(reference_seconds) / sum(ours_seconds), 1),
        "ours_pairs_per_second": round(count / sum(ours_seconds), 1),
        "math_verify_pairs_per_second": round(count / sum(reference_seconds), 1),
        "ours_whole_mix_pairs_per_second": round(rate, 1),
        "speed_pairs": count,
        "speed_last_tier_pairs": last_tier,
        "speed_ours_and_math_verify": dict(outcomes.most_common()),
        "load_average": round(os.getloadavg()[0], 1),
        "worker_start_seconds": round(start_seconds, 2),
    }
    print(f"\nspeed: {len(ratios)} blocks of {size.block} pairs\n\n| grader | pairs per second |\n|---|---|")
    print(f"| ours, one worker | {result['ours_pairs_per_second']} |")
    print(f"| math-verify | {result['math_verify_pairs_per_second']} |")
    print(f"| ours, defaults, all {len(pairs)} pairs | {rate:.1f} |", flush=True)
    return result


# ---------------------------------------------------------------- processes and bounds


def child(call: str, *arguments: str | int) -> subprocess.Popen[str]:
    """A plain process that runs a function of this module with the arguments as text."""
    code = f"import sys; from benchmarks.verifier import {call}; {call}(*sys.argv[1:])"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the benchmark's process ended with exit code {process.wait()}")
    return line


def share(file: str, first: str, step: str) -> None:
    """Grade every step-th pair when a line comes on stdin."""
    pairs = [Pair(*row) for row in json.loads(Path(file).read_text())][int(first) :: int(step)]
    start_worker()
    print("ready", flush=True)
    sys.stdin.readline()
    forget()
    ours(pairs, ONE_WORKER)
    print("done", flush=True)


def seconds_with(processes: int, file: str) -> float:
    """From the signal to all until the last is done."""
    running = [child("share", file, first, processes) for first in range(processes)]
    for process in running:
        read_line(process)
    begin = time.perf_counter()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in running:
        read_line(process)
    seconds = time.perf_counter() - begin
    for process in running:
        process.communicate()
    return seconds


def scaling(pairs: Sequence[Pair], size: Size) -> dict[str, Any]:
    """Two processes with half of the pairs each, against one with all, in turns."""
    pairs = pairs[: size.scaling]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.json"
        file.write_text(json.dumps(pairs))
        times = [(seconds_with(1, str(file)), seconds_with(2, str(file))) for _ in range(size.rounds)]
    ratios = [round(one / two, 2) for one, two in times]
    one, two = (len(pairs) / median(column) for column in zip(*times, strict=True))
    print(f"\ntwo processes: {two:.0f} pairs/s, one: {one:.0f} pairs/s, ratios {ratios}", flush=True)
    return {
        "two_process_scaling": median(ratios),
        "two_process_scaling_rounds": ratios,
        "one_process_pairs_per_second": round(one, 1),
        "two_processes_pairs_per_second": round(two, 1),
        "cpus": len(os.sched_getaffinity(0)),
    }


def batch(pairs: Sequence[Pair], size: Size) -> dict[str, Any]:
    """One call with 1 % bombs, and without them."""
    limits = algebra.Limits(batch_seconds=size.batch_seconds)
    mixed = [bomb(i // 100) if i % 100 == 0 else pairs[i % len(pairs)] for i in range(size.batch)]
    plain = [pair for i, pair in enumerate(mixed) if i % 100]
    ours([LAST_TIER], limits)
    result: dict[str, Any] = {"batch_rows": len(mixed), "batch_limit_seconds": limits.batch_seconds}
    for name, rows in (("", mixed), ("_without_bombs", plain)):
        forget()
        begin = time.perf_counter()
        verdicts = verify_many([p.gold for p in rows], [p.text for p in rows], limits=limits)
        result[f"batch{name}_seconds"] = round(time.perf_counter() - begin, 2)
        late = [verdict.rule == "timeout" for verdict in verdicts]
        result[f"batch{name}_timeouts"] = sum(late)
        if not name:
            result["batch_timeouts_of_others"] = sum(late[i] for i in range(len(rows)) if i % 100)
            result["batch_bombs"] = Counter(v.rule for v in verdicts[::100])
    print(f"\nbatch of {len(mixed)} with 1 % bombs: {result}", flush=True)
    return result


def shift(text: str, number: int) -> str:
    """Add to the first integer of the text."""
    return re.sub("[0-9]{1,20}", lambda digits: str(int(digits[0]) + number), text, count=1)


def memory_mib(process: int) -> float:
    """Resident memory of a process (Linux)."""
    return round(int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE_MIB, 1)


def grow(file: str, *counts: str) -> None:
    """Print the memory after so many verdicts, and how many of them no cache knew. Every cycle over the pairs
    adds one to the first integer of each text; of the pairs for the last tier only one of 20 is kept."""
    pairs = [Pair(*row) for row in json.loads(Path(file).read_text())]
    known = enumerate(zip(pairs, ours(pairs), strict=True))
    pairs = [pair for i, (pair, verdict) in known if verdict.rule not in LAST_RULES or i % 20 == 0]
    done = 0
    for count in map(int, counts):
        while done < count:
            cycle, first = divmod(done, len(pairs))
            part = pairs[first : first + min(BATCH, count - done)]
            ours([pair._replace(text=shift(pair.text, cycle)) for pair in part])
            done += len(part)
        workers = [memory_mib(worker.process.pid) for worker in algebra._pool().workers]
        fresh = compare._remembered.cache_info().misses
        row = {"verdicts": done, "fresh": fresh, "mib": memory_mib(os.getpid()), "workers_mib": workers}
        print(json.dumps(row), flush=True)


def leak(pairs: Sequence[Pair], size: Size) -> dict[str, Any]:
    """Memory of one process over many verdicts."""
    if not size.leak:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.json"
        file.write_text(json.dumps(pairs))
        process = child("grow", str(file), *size.leak)
        rows = [json.loads(read_line(process)) for _ in size.leak]
        process.communicate()
    print("\n| verdicts | fresh | process MiB | workers MiB |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['verdicts']:,} | {row['fresh']:,} | {row['mib']} | {row['workers_mib']} |")
    return {"leak": rows}


def run(folder: Path, size: Size, *, verbose: bool = False) -> dict[str, Any]:
    """All measurements; returns the last line."""
    hard, pairs = labelled(folder, "hard_pairs"), labelled(folder, "pairs")
    sources = completions(folder)
    mix = sample([*pairs, *(pair for source in sources.values() for pair in source)], None)
    result = {"benchmark": "verifier", **quality("hard pairs", sample(hard, size.labelled), verbose=verbose)}
    others = quality("all pairs", sample(pairs, size.others), verbose=verbose)
    result |= {f"all_pairs_{key}": value for key, value in others.items()}
    counts = ", ".join(f"{len(rows)} of {name}" for name, rows in sources.items())
    print(f"\nreal mix: {len(pairs)} labelled pairs, {counts}", flush=True)
    for measure in (speed, scaling, batch):
        result |= measure(mix, size)
    return result | leak(pairs, size)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.verifier", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="samples of the data, one round, no leak")
    parser.add_argument("--data", type=Path, default=os.environ.get("SLOWTHINK_DATA"))
    parser.add_argument("--verbose", action="store_true", help="list every error")
    options = parser.parse_args()
    if options.data is None:
        raise ValueError("set --data or SLOWTHINK_DATA to a folder with verifier_pairs/hard_pairs.jsonl")
    print(json.dumps(run(options.data, QUICK if options.quick else FULL, verbose=options.verbose)))


if __name__ == "__main__":
    main()
