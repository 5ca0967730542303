"""Stage `sample`: n verified completions per problem, written as they finish.

Weak-model attempts that measure difficulty, teacher traces and rejection sampling are all this stage.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.prompts import Prompt, Prompter, PromptStyle
from data.schema import (
    Attempt,
    Completion,
    Problem,
    Rejected,
    attempt_from_row,
    attempt_row,
    problem_row,
    rejected,
)
from data.sources import load_problems, parse_source
from data.stage import run_stage
from data.store import Journal, read_problems, write_attempts, write_rejected
from data.thinking import ThinkingFormat, thinking_format
from inference.engine import Engine, EngineName, Generation, Request, SamplingParams, load_engine
from rewards.policy import DEFAULT_POLICY, Policy, parse_policy
from rewards.texts import graded_text
from rewards.verify import verify_many

logger = logging.getLogger(__name__)

ROWS_PER_CALL = 16
"""Batches that one engine call gets at a time: enough to sort by length, few enough to lose little to a
kill."""


@dataclass(kw_only=True)
class GenerationOptions:
    """How completions are generated; shared by every stage that generates."""

    model_name_or_path: str
    """Folder or hub id of the model."""
    engine: EngineName = "transformers"
    """Which engine generates."""
    dtype: str = "auto"
    """Weights: auto (as stored), float32, bfloat16, float16."""
    batch_size: int = 32
    """Rows that are generated together."""
    trust_remote_code: bool = False
    """Whether code from the model's repository may run."""
    max_tokens: int = 1024
    """Longest completion."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus sampling; 1 keeps everything."""
    top_k: int = 0
    """0 keeps everything."""
    prompt_style: PromptStyle = "direct"
    """direct, zero_shot_cot, few_shot, r1_zero or s1 (see data/prompts.py)."""
    system_prompt: str | None = None
    """System message; the chat template's own default where it is not given."""
    few_shot: list[dict] = field(default_factory=list)
    """Worked examples of prompt_style few_shot: `question` and `response` of each, or sources with
    solutions."""
    thinking_format: str = "think_tags"
    """think_tags, answer_tags or s1: how thinking and response are told apart."""
    policy: dict[str, Any] = field(default_factory=dict)
    """What counts as a right answer where people disagree: options of rewards/policy.py."""
    seed: int = 0
    """Every completion's own seed follows from this, its problem and its index."""

    def __post_init__(self) -> None:
        thinking_format(self.thinking_format)
        parse_policy(self.policy)
        self.sampling()
        if (self.prompt_style == "few_shot") != bool(self.few_shot):
            raise ValueError("few_shot: give examples exactly when prompt_style is few_shot")
        for index, entry in enumerate(self.few_shot):
            if not _is_inline(entry):
                parse_source(entry, f"few_shot[{index}]")

    def sampling(self) -> SamplingParams:
        return SamplingParams(
            max_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p, top_k=self.top_k
        )


@dataclass(kw_only=True)
class SampleConfig(GenerationOptions):
    """Fields of stage `sample`."""

    problems: str
    """Stage folder (run:01_collect) or parquet file with the problems."""
    num_completions: int = 4
    """Completions per problem."""
    limit: int | None = None
    """Only the first so many problems."""

    def __post_init__(self) -> None:
        GenerationOptions.__post_init__(self)
        if self.num_completions < 1:
            raise ValueError(f"num_completions: {self.num_completions} must be at least 1")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: {self.limit} must be at least 1")


def sample(config: SampleConfig, folder: Path) -> dict[str, Any]:
    """Draw completions and write attempts.parquet. Killed and started again, it ends with the same rows."""
    problems = read_problems(config.problems)[: config.limit]
    if not problems:
        raise ValueError(f"problems: {config.problems} holds no problem")
    attempts, bad = draw(config, problems, config.num_completions, folder)
    write_attempts(folder, attempts)
    write_rejected(folder, bad)
    (folder / JOURNAL).unlink()
    return {
        "problems": len(problems),
        "attempts": len(attempts),
        "rejected": len(bad),
        **attempt_metrics(attempts),
    }


JOURNAL = "attempts.journal"


def draw(
    config: GenerationOptions, problems: Sequence[Problem], num_completions: int, folder: Path
) -> tuple[list[Attempt], list[Rejected]]:
    """`num_completions` verified attempts per problem, in the order of problems and indices.

    Finished rows go to a journal in `folder`, from which a killed run goes on; the caller removes it when the
    rows are safe elsewhere. Problems that cannot be put to this model are rejected.
    """
    engine = load_engine(
        config.engine,
        config.model_name_or_path,
        dtype=config.dtype,
        batch_size=config.batch_size,
        trust_remote_code=config.trust_remote_code,
    )
    prompter = make_prompter(config, engine)
    prompts, bad = _prompts(problems, prompter, engine.max_model_tokens - config.max_tokens)
    work = [(p, prompts[p.id], i) for p in problems if p.id in prompts for i in range(num_completions)]
    if not work:
        raise ValueError(
            f"no problem can be put to the model; first reason: {bad[0].rule}: {bad[0].evidence}"
        )
    work.sort(key=lambda item: -len(item[1].ids))
    with Journal(folder / JOURNAL) as journal:
        done = {(row["id"], row["index"]): attempt_from_row(row) for row in journal.rows}
        if done:
            logger.info("going on after %d finished completions", len(done))
        _draw_missing(config, engine, prompter.thinking_format, work, journal, done)
    order = {p.id: position for position, p in enumerate(problems)}
    attempts = sorted(done.values(), key=lambda a: (order[a.problem.id], a.index))
    return attempts, bad


def _draw_missing(
    config: GenerationOptions,
    engine: Engine,
    form: ThinkingFormat,
    work: list[tuple[Problem, Prompt, int]],
    journal: Journal,
    done: dict[tuple[str, int], Attempt],
) -> None:
    from tqdm import tqdm

    bar = tqdm(total=len(work), initial=len(done), desc="completions", unit="completion", smoothing=0.05)
    size = config.batch_size * ROWS_PER_CALL
    policy = parse_policy(config.policy)
    for start in range(
        0, len(work), size
    ):  # chunks do not depend on what is done: the same batches after a kill
        chunk = work[start : start + size]
        missing = _missing_batches(chunk, done, config.batch_size)
        requests = [
            Request(prompt_ids=prompt.ids, seed=attempt_seed(config.seed, problem.id, index))
            for problem, prompt, index in missing
        ]
        for batch in engine.generate(requests, config.sampling()) if requests else ():
            drawn = [
                (*missing[position], requests[position].seed, generation) for position, generation in batch
            ]
            rows = make_attempts(drawn, engine, form, policy)
            journal.append(attempt_row(row) for row in rows)
            done.update({(row.problem.id, row.index): row for row in rows})
            bar.update(len(rows))
    bar.close()


def _missing_batches(
    chunk: list[tuple[Problem, Prompt, int]], done: dict[tuple[str, int], Attempt], batch_size: int
) -> list[tuple[Problem, Prompt, int]]:
    """The batches of a chunk of which any row is missing (journals hold whole batches, so all of them
    are)."""
    batches = [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    open_batches = [b for b in batches if any((p.id, i) not in done for p, _, i in b)]
    return [item for batch in open_batches for item in batch]


def make_prompter(config: GenerationOptions, engine: Engine) -> Prompter:
    """The prompter of a generating stage, with its few-shot examples loaded."""
    examples: list[tuple[str, str]] = []
    for index, entry in enumerate(config.few_shot):
        if _is_inline(entry):
            examples.append((entry["question"], entry["response"]))
            continue
        problems, _ = load_problems(parse_source(entry, f"few_shot[{index}]"))
        examples += [(p.question, p.solution or f"\\boxed{{{p.answer}}}") for p in problems]
    return Prompter(
        tokenizer=engine.tokenizer,
        style=config.prompt_style,
        thinking_format=thinking_format(config.thinking_format),
        system_prompt=config.system_prompt,
        examples=examples,
    )


def _is_inline(entry: dict) -> bool:
    return set(entry) == {"question", "response"}


def _prompts(
    problems: Sequence[Problem], prompter: Prompter, longest: int
) -> tuple[dict[str, Prompt], list[Rejected]]:
    prompts: dict[str, Prompt] = {}
    bad: list[Rejected] = []
    for problem in problems:
        try:
            prompt = prompter.prompt(problem.question)
        except ValueError as error:
            bad.append(rejected(problem_row(problem), "unusable_question", str(error)))
            continue
        if len(prompt.ids) > longest:
            bad.append(
                rejected(problem_row(problem), "overlong_prompt", f"{len(prompt.ids)} > {longest} tokens")
            )
        else:
            prompts[problem.id] = prompt
    return prompts, bad


def attempt_seed(seed: int, problem: str, index: int) -> int:
    """Seed of one completion: 63 bits of a hash of the stage's seed, the problem's id and the index."""
    digest = hashlib.sha256(f"{seed}:{problem}:{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def make_attempts(
    drawn: Sequence[tuple[Problem, Prompt, int, int, Generation]],
    engine: Engine,
    form: ThinkingFormat,
    policy: Policy = DEFAULT_POLICY,
) -> list[Attempt]:
    """Split and verify generations, each with its problem, prompt, index and seed."""
    texts = [prompt.prefill + generation.text for _, prompt, _, _, generation in drawn]
    splits = [form.split(text) for text in texts]
    golds = [problem.answer for problem, *_ in drawn]
    verdicts = verify_many(golds, [graded_text(split, form) for split in splits], policy)
    return [
        Attempt(
            problem=problem,
            index=index,
            completion=Completion(
                text=text,
                thinking=split.thinking,
                response=split.response,
                finish_reason=generation.finish_reason,
                prompt_tokens=len(prompt.ids),
                thinking_tokens=count_tokens(
                    engine, text[: split.thinking_end] if split.thinking_end else split.thinking
                ),
                completion_tokens=len(generation.token_ids),
                model=engine.name,
                seed=seed,
            ),
            verdict=verdict.outcome,
            extracted=verdict.extracted,
        )
        for (problem, prompt, index, seed, generation), text, split, verdict in zip(
            drawn, texts, splits, verdicts, strict=True
        )
    ]


def count_tokens(engine: Engine, text: str) -> int:
    """Length of a text in tokens of the policy's tokenizer."""
    return len(engine.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else 0


def attempt_metrics(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Shares of verdicts and the tokens that a set of attempts cost."""
    outcomes = Counter(a.verdict for a in attempts)
    n = len(attempts)
    return {
        "correct": outcomes["correct"] / n,
        "unverifiable": outcomes["unverifiable"] / n,
        "truncated": sum(a.completion.finish_reason == "length" for a in attempts) / n,
        "mean_thinking_tokens": sum(a.completion.thinking_tokens for a in attempts) / n,
        "tokens": sum(a.completion.completion_tokens for a in attempts),
    }


if __name__ == "__main__":
    run_stage(sample, SampleConfig)
