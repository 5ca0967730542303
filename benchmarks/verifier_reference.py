"""What the verifier is measured on, and against: labelled pairs, real completions, math-verify, errors.

Files under the data folder: verifier_pairs/{hard_pairs,pairs}.jsonl, gsm8k/example_model_solutions.jsonl and
traces/*; see `completions` for what is read from each.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data.schema import Outcome
from rewards import algebra, compare, expression, number
from rewards.verify import Verdict, verify_many

BATCH = 500
"""Pairs per call of verify_many, where it is not the batch that is measured."""

for _name in ("math_verify.parser", "math_verify.grader", "latex2sympy2_extended"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # a traceback for each text that it cannot read


class Pair(NamedTuple):
    """A gold answer and the whole text that is graded against it."""

    gold: str
    text: str
    label: int | None = None
    """1 the same answer, 0 another, None a question of policy."""
    label_by: str = ""


LAST_TIER = Pair("\\int_0^1 x\\,dx", "\\boxed{\\frac{1}{2}+\\int_0^0 x\\,dx}")
"""A pair that only computer algebra decides."""

Grader = Callable[[Sequence[Pair]], list[Outcome]]


def as_gold(gold: str) -> str:
    """math-verify reads LaTeX only where it is marked: bare golds cost it 78 false negatives among the
    bare answers of the hard pairs, a box or dollars 21."""
    return gold if "boxed" in gold else "\\boxed{" + gold.replace("$", "") + "}"


def default_grader(pairs: Sequence[Pair]) -> list[Outcome]:
    """math-verify with its own defaults and time-outs, pair by pair; `unverifiable`: nothing was parsed."""
    from math_verify import parse, verify

    outcomes: list[Outcome] = []
    for pair in pairs:
        gold, answer = parse(as_gold(pair.gold)), parse(pair.text)
        equal = verify(gold, answer)
        outcomes.append("correct" if equal else "wrong" if gold and answer else "unverifiable")
    return outcomes


def trl_grader(pairs: Sequence[Pair]) -> list[Outcome]:
    """trl.rewards.accuracy_reward itself, which reads an answer only from LaTeX."""
    from trl.rewards.accuracy_rewards import accuracy_reward

    texts = [[{"role": "assistant", "content": pair.text}] for pair in pairs]
    rewards = accuracy_reward(texts, [as_gold(pair.gold) for pair in pairs])
    return ["unverifiable" if reward is None else "correct" if reward else "wrong" for reward in rewards]


def ours(pairs: Sequence[Pair], limits: algebra.Limits = algebra.DEFAULT_LIMITS) -> list[Verdict]:
    verdicts = []
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        verdicts += verify_many([p.gold for p in batch], [p.text for p in batch], limits=limits)
    return verdicts


def our_grader(pairs: Sequence[Pair]) -> list[Outcome]:
    return [verdict.outcome for verdict in ours(pairs)]


GRADERS: dict[str, Grader] = {
    "ours": our_grader,
    "math_verify": default_grader,
    "math_verify_trl": trl_grader,
}
"""Keys of the last line begin with these names, but for ours."""


def forget() -> None:
    """Empty the verifier's caches."""
    compare._remembered.cache_clear()
    number._number.cache_clear()
    expression.parse.cache_clear()
    algebra._decisions.clear()


# ---------------------------------------------------------------- data


def labelled(folder: Path, name: str) -> list[Pair]:
    """verifier_pairs/NAME.jsonl; a bare answer is put in a box.

    Raises:
        ValueError: the file is absent.
    """
    path = folder / "verifier_pairs" / f"{name}.jsonl"
    if not path.exists():
        raise ValueError(f"{path} is absent: set --data or SLOWTHINK_DATA to a folder that holds it")
    return [
        Pair(
            row["gold"],
            row["pred"] if row["kind"] == "text" else f"\\boxed{{{row['pred']}}}",
            row["label"],
            row["label_by"],
        )
        for row in _rows(path)
    ]


def sample(pairs: Sequence[Pair], most: int | None) -> list[Pair]:
    """At most that many, in random order, always the same."""
    return random.Random(0).sample(pairs, len(pairs))[:most]


def completions(folder: Path) -> dict[str, list[Pair]]:
    """Real outputs of models with their golds, by source; a file that is absent is left out.

    ZeroEval's outputs are JSON: the answer is put in a box after the text before it; outputs without
    an answer are taken as they are.
    """
    readers: dict[str, Callable[[Any], Iterator[Pair]]] = {
        "traces/rg_qwen2.5-3b-instruct_gsm8k.jsonl": _sampled,
        "traces/qwen_math_rm_maj8_math100.jsonl": _sampled,
        "traces/zeroeval_mathl5_Qwen2.5-7B-Instruct.json": _zeroeval,
        "traces/zeroeval_mathl5_o1-mini-2024-09-12.json": _zeroeval,
        "traces/rg_llama3b_step400_aime2024.json": _reasoning_gym,
        "traces/rg_llama3b_step400_amc23.json": _reasoning_gym,
        "gsm8k/example_model_solutions.jsonl": _openai,
    }
    return {
        name: list(read(_rows(folder / name))) for name, read in readers.items() if (folder / name).exists()
    }


def _rows(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def _sampled(rows: Any) -> Iterator[Pair]:
    for row in rows:
        for text in row["code"]:
            yield Pair(row["gt"], text)


_JSON_ANSWER = re.compile(r'"answer"\s*:\s*"?([^"\n]*)"?\s*\}')


def _zeroeval(rows: Any) -> Iterator[Pair]:
    for row in rows:
        text = row["output"][0].replace("\\\\", "\\")
        answer = max(_JSON_ANSWER.finditer(text), key=re.Match.start, default=None)
        yield Pair(row["answer"], f"{text[: answer.start()]}\n\\boxed{{{answer[1]}}}" if answer else text)


def _reasoning_gym(rows: Any) -> Iterator[Pair]:
    for category in rows["categories"]:
        for dataset in category["datasets"]:
            for row in dataset["results"]:
                for completion in row["completions"]:
                    yield Pair(row["expected_answer"], completion["full_model_response"])


def _openai(rows: Any) -> Iterator[Pair]:
    for row in rows:
        gold = row["ground_truth"].rpartition("A: ")[2]
        for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
            yield Pair(gold, row[model]["solution"])


def bomb(number: int) -> Pair:
    """An answer that is dear to read or to compute; every number gives another one."""
    answers = [
        f"9^{{9^{{9^{{{9 + number}}}}}}}",
        f"\\sum_{{k=1}}^{{10^{{12}}}} k^{{{number}}}\\sin(k)",
        "(" * 5_000 + str(number) + ")" * 5_000,
        "\\frac{1}{1+" * 40 + str(number) + "}" * 40,
        "1+" * 50_000 + str(number),
        "\\boxed{" * 15_000 + str(number),
        f"\\int_0^{{\\infty}} \\frac{{\\sin(x^{{{number + 2}}})}}{{\\ln(x)+e^{{x}}}} dx",
        f"({number + 10**9})!",
        f"\\int x^{{x^{{{number + 2}}}}} \\tan(\\ln(x)) dx",
        f"\\sqrt{{2+\\sin(10^{{{number + 10**6}}})}}",
    ]
    return Pair("\\frac{\\sqrt{2}}{3}+\\pi", f"\\boxed{{{answers[number % len(answers)]}}}")


# ---------------------------------------------------------------- quality


def interval(errors: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate."""
    if not trials:
        return 0.0, 1.0
    z, rate = 1.96, errors / trials
    middle, scale = rate + z * z / (2 * trials), 1 + z * z / trials
    spread = z * (rate * (1 - rate) / trials + (z / (2 * trials)) ** 2) ** 0.5
    return (middle - spread) / scale, (middle + spread) / scale


def quality(name: str, pairs: Sequence[Pair], *, verbose: bool) -> dict[str, Any]:
    """Errors of each grader; prints the table."""
    counted = [pair for pair in pairs if pair.label is not None]
    right = sum(pair.label == 1 for pair in counted)
    agreed = sum(pair.label_by.startswith("all graders") for pair in counted)
    wrong = len(counted) - right
    print(f"\n{name}: {right} right and {wrong} wrong answers; {agreed} labels by agreement of graders\n")
    print("| grader | false positives | 95 % | false negatives | 95 % | of these not judged |")
    print("|---|---|---|---|---|---|", flush=True)
    result: dict[str, Any] = {"right": right, "wrong": wrong, "labels_by_agreement": agreed}
    errors = []
    for grader, grade in GRADERS.items():
        outcomes = grade(counted)
        graded = list(zip(counted, outcomes, strict=True))
        positives = [pair for pair, outcome in graded if pair.label == 0 and outcome == "correct"]
        negatives = [(pair, outcome) for pair, outcome in graded if pair.label == 1 and outcome != "correct"]
        open_ = sum(outcome == "unverifiable" for _, outcome in negatives)
        cells = []
        for found, trials in ((len(positives), wrong), (len(negatives), right)):
            low, high = interval(found, trials)
            cells.append(f"{found} | {low:.1%} to {high:.1%}")
        print(f"| {grader} | {cells[0]} | {cells[1]} | {open_} |", flush=True)
        start = "" if grader == "ours" else f"{grader}_"
        result |= {f"{start}false_positives": len(positives), f"{start}false_negatives": len(negatives)}
        result[f"{start}false_negatives_not_judged"] = open_
        errors += [f"{grader}: false positive: {p.gold!r} {p.text[-100:]!r}" for p in positives]
        errors += [f"{grader}: false negative ({o}): {p.gold!r} {p.text[-100:]!r}" for p, o in negatives]
    if verbose:
        print("", *errors, sep="\n")
    return result
