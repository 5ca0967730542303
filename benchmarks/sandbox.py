"""What isolation costs: a program that prints one line, in a plain subprocess and at each level of isolation.

    python -m benchmarks.sandbox [--quick]

All ways take turns within each round; the medians of the rounds are reported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from rewards.sandbox.isolation import ANY, SandboxError
from rewards.sandbox.sandbox import Sandbox

PROGRAM = "print(sum(i * i for i in range(1000)))"
EXPECTED = "332833500"


def ways() -> dict[str, Callable[[], str]]:
    """Run the program once, by name of the way."""
    found: dict[str, Callable[[], str]] = {"plain subprocess": _plain}
    for level in ANY:
        try:
            sandbox = Sandbox(levels=(level,))
        except SandboxError as error:
            print(f"{level}: not here ({error})")
            continue
        found[level] = lambda sandbox=sandbox: sandbox.run(PROGRAM, [""])[0].stdout
    return found


def _plain() -> str:
    command = [sys.executable, "-I", "-S", "-c", PROGRAM]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def seconds(run: Callable[[], str], programs: int, parallel: int) -> float:
    """Time of so many programs, so many at a time."""
    begin = time.perf_counter()
    with ThreadPoolExecutor(parallel) as threads:
        outputs = list(threads.map(lambda _: run(), range(programs)))
    assert {output.strip() for output in outputs} == {EXPECTED}
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.sandbox", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of few programs")
    rounds, programs = (1, 4) if parser.parse_args().quick else (7, 40)
    result = {"benchmark": "sandbox", "load_average": round(os.getloadavg()[0], 1)}
    runs = ways()
    times = {(name, p): [] for name in runs for p in (1, 2)}
    for _ in range(rounds):
        for (name, parallel), taken in times.items():
            taken.append(seconds(runs[name], programs, parallel))
    print("| | ms a program | programs/s, one at a time | two |\n|---|---|---|---|")
    for name in runs:
        one, two = (median(times[name, parallel]) / programs for parallel in (1, 2))
        print(f"| {name} | {1000 * one:.0f} | {1 / one:.0f} | {1 / two:.0f} |")
        result[f"{name.replace(' ', '_')}_ms"] = round(1000 * one, 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
