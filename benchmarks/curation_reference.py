"""s1's decontamination in plain Python, and leaks planted into text to count what each side finds."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

Decontaminate = Callable[[Sequence[str], Sequence[str]], set[int]]


def s1_runs(question: str, words: int = 8) -> list[str]:
    """Runs of words after s1's normalisation: lower case, white space collapsed."""
    split = question.lower().strip().split()
    return [" ".join(split[i : i + words]) for i in range(len(split) - words + 1)]


def s1_decontaminate(questions: Sequence[str], benchmark: Sequence[str]) -> set[int]:
    """Numbers of the questions that share a run of 8 words with a benchmark question.

    The method of simplescaling/s1@77272c6:data/decontaminate_util.py: on either side a table from run to the
    set of its questions.
    """

    def table(texts: Sequence[str]) -> dict[str, set[int]]:
        runs: defaultdict[str, set[int]] = defaultdict(set)
        for number, text in enumerate(texts):
            for run in s1_runs(text):
                runs[run].add(number)
        return runs

    pool = table(questions)
    return set().union(*(pool[run] for run in table(benchmark) if run in pool))


def s1_as_run(sources: Sequence[Sequence[str]], benchmark: Sequence[str]) -> int:
    """Questions left when, as s1 does, each source joins the texts that the next ones may not share."""
    seen, left = list(benchmark), 0
    for questions in sources:
        bad = s1_decontaminate(questions, seen)
        clean = [question for number, question in enumerate(questions) if number not in bad]
        seen += clean
        left += len(clean)
    return left


def peer_decontaminate(path: Path) -> Decontaminate:
    """The functions of s1's own file, in the form of `s1_decontaminate`."""
    spec = importlib.util.spec_from_file_location("peer_decontaminate", path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(questions: Sequence[str], benchmark: Sequence[str]) -> set[int]:
        with contextlib.redirect_stdout(io.StringIO()):
            pool, tests = (module.build_ngram_lookup(texts, ngram_size=8) for texts in (questions, benchmark))
            return set(module.find_contaminated_questions(pool, tests))

    return run


# ---------------------------------------------------------------- planted leaks


def respaced(question: str, rng: random.Random) -> str:
    """Other white space, and blanks around the operators of formulas."""
    text = re.sub(r"\s*([+=<>])\s*", rng.choice([r" \1 ", r"\1"]), question)
    return re.sub(r" ", lambda _: rng.choice([" ", " ", "  ", "\n", "\u00a0", "\t"]), text)


def rewritten(question: str, rng: random.Random) -> str:
    """The same formulas written in another LaTeX."""
    text = question.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")
    text = text.replace(r"\frac", rng.choice([r"\dfrac", r"\tfrac", r"\frac "]))
    text = text.replace(r"\left", "").replace(r"\right", "") if r"\left(" in text else _sized(text)
    text = (
        re.sub(r"\^(\w)(?![\w])", r"^{\1}", text)
        if rng.random() < 0.5
        else re.sub(r"\^\{(\w)\}", r"^\1", text)
    )
    text = re.sub(r"\\cdot(?![a-z])", r"\\times", text).replace(r"\le ", r"\leq ").replace(r"\ge ", r"\geq ")
    return re.sub(r"\$([^$]+)\$", r"\\(\1\\)", text) if rng.random() < 0.5 else text.replace("$", "")


def _sized(text: str) -> str:
    return re.sub(r"\$[^$]*\$", lambda m: m[0].replace("(", r"\left(").replace(")", r"\right)"), text)


def inside(question: str, rng: random.Random) -> str:
    """The whole question in a longer text."""
    start = rng.choice(
        ["Here is a task from my homework. ", "Consider this: ", "Hello! Solve what follows.\n\n"]
    )
    return f"{start}{question}{rng.choice([' Thanks.', ' Show every step of your work.', ' Why?'])}"


def first_half(question: str, rng: random.Random) -> str:
    """Its first half, with another end."""
    words = question.split(" ")
    return " ".join(words[: (len(words) + 1) // 2]) + rng.choice([" ... How does it go on?", " (continued)"])


def plants(questions: Sequence[str], count: int, seed: int) -> dict[str, list[str]]:
    """`count` leaks of each kind, drawn from the questions (halves: of questions of 16 words or more)."""
    rng = random.Random(seed)
    long = [q for q in questions if len(q.split()) >= 16]
    short = [q for q in questions if len(q.split()) < 8]
    some = {kind: rng.sample(long, min(count, len(long))) for kind in ("half", "inside")}
    drawn = {kind: rng.sample(list(questions), min(count, len(questions))) for kind in "vrl"}
    return {
        "verbatim": drawn["v"],
        "respaced": [respaced(q, rng) for q in drawn["r"]],
        "latex": [rewritten(q, rng) for q in drawn["l"]],
        "short": [
            rng.choice([respaced, rewritten])(q, rng) for q in rng.choices(short, k=count if short else 0)
        ],
        "quoted": [inside(q, rng) for q in some["inside"][: count // 2]]
        + [first_half(q, rng) for q in some["half"][: count - count // 2]],
    }
