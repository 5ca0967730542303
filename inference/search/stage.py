"""Stage `search`: test-time compute spent on every problem, by several strategies in turn."""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.processes import is_part, worker, workers
from data.progress import Progress
from data.schema import Attempt, Rejected
from data.stage import run_stage
from data.step_tables import write_labelled
from data.store import read_problems, table_path, write_attempts, write_rejected, write_rows
from data.thinking import thinking_format
from inference.draw import make_prompter, render_prompts
from inference.engine import Engine, load_engine
from inference.options import GenerationOptions
from inference.ranks import wait
from inference.scorers.load import ScorerOptions, load_scorer
from inference.scorers.reward_model import saved_options
from inference.scorers.scorer import Aggregation, Scorer
from inference.search.driver import SearchBudget, Task, search
from inference.search.extension import StepLimits
from inference.search.journals import all_records, finished_records, journal_of, remove_journals
from inference.search.labels import labelled_candidates
from inference.search.records import Record, make_records, record_row
from inference.search.results import CHOICES, SearchResult, result_row
from inference.search.settings import parse_strategies
from inference.search.strategies.auto import Auto
from inference.search.strategies.parallel import Majority
from inference.search.strategies.strategy import SearchStrategy

logger = logging.getLogger(__name__)

PROBLEMS_PER_LOT = 4
"""Problems of a lot, over those that are under way at once. An interrupted lot is searched again as a whole,
since a part of it might be rounded in another way."""


@dataclass(kw_only=True)
class SearchConfig(GenerationOptions, ScorerOptions):
    """Fields of stage `search`."""

    problems: str
    """Stage folder (run:01_collect) or parquet file with the problems."""
    strategies: list[dict] = field(default_factory=list)
    """What is run, each {strategy: NAME, n: 16, ...} with NAME one of majority, best_of_n, beam, dvts,
    rebase, mcts, revisions and auto, or package.module:Class of your own; a list of values makes a setting
    for each. Their options are in inference/search/strategies/."""
    scorer_model: str = ""
    """Folder or hub id of the reward model; empty where no strategy needs one."""
    aggregation: Aggregation = "last"
    """How the scores of a path's steps make its own."""
    step_separator: str = ""
    """Where a step ends; without it what a reward model of stage prm was trained with, or a blank line."""
    max_step_tokens: int = 1024
    """A step without separator is cut there, and counted."""
    budget_tokens: int | None = None
    """Most generated tokens for one problem, of all its paths; null: what the strategy asks for."""
    prefix_cache_tokens: int = 1 << 18
    """Tokens that problems under way may have at once, if all paths get as long as they may; keys and values
    of so many stay in memory between steps (engine transformers)."""
    temperature: float = 0.8
    """0 is greedy."""
    limit: int | None = None
    """Only the first so many problems."""

    def __post_init__(self) -> None:
        GenerationOptions.__post_init__(self)
        ScorerOptions.__post_init__(self)
        if self.budget() is not None or self.resample_longer_than is not None:
            raise ValueError(
                "search: leave out max_thinking_tokens, min_thinking_tokens, waits and resample_longer_than; "
                "strategy revisions does budget forcing"
            )
        for strategy in self.settings():
            if strategy.needs_scorer and not self.scorer_model:
                raise ValueError(f"scorer_model: strategy {strategy.label} needs one")
            if self.temperature == 0 and strategy.n > 1:
                raise ValueError(
                    f"temperature: with 0 all {strategy.n} completions of {strategy.title} are alike"
                )
        for key in ("max_step_tokens", "budget_tokens", "limit", "prefix_cache_tokens"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"{key}: {value} must be at least 1")

    def settings(self) -> list[SearchStrategy]:
        return parse_strategies(self.strategies, "strategies")

    def search_budget(self, engine: Engine) -> SearchBudget:
        return SearchBudget(
            params=self.sampling(engine.tokenizer),
            steps=StepLimits(separator=self.step_separator, max_tokens=self.max_step_tokens),
            total_tokens=self.budget_tokens,
            live_rows=2 * self.batch_size,
            live_tokens=self.prefix_cache_tokens,
            aggregation=self.aggregation,
            seed=self.seed,
        )


def run_search(config: SearchConfig, folder: Path) -> dict[str, Any]:
    """Search; write searches, nodes, attempts and step_labels. Killed and started again, it goes on."""
    problems = read_problems(config.problems)[: config.limit]
    if not problems:
        raise ValueError(f"problems: {config.problems} holds no problem")
    config = replace(config, step_separator=separator_of(config))
    settings = config.settings()
    for strategy in settings:
        if isinstance(strategy, Auto):
            _ = strategy.plans  # before a model is loaded
    engine = load_engine(config)
    check_logprobs(settings, engine)
    scorer = load_scorer(config) if config.scorer_model else None
    prompter = make_prompter(config, engine)
    longest = engine.max_model_tokens - config.max_tokens
    prompts, bad = render_prompts(problems, prompter, longest, config.question_suffix)
    once = {problem.id: problem for problem in problems}  # a table may hold a problem twice
    tasks = [(problem, prompts[id]) for id, problem in once.items() if id in prompts]
    if not tasks:
        raise ValueError(
            f"no problem can be put to the model; first reason: {bad[0].rule}: {bad[0].evidence}"
        )
    counts: Counter[str] = Counter()
    draw_searches(config, settings, tasks, engine, scorer, folder, counts)
    if is_part():
        return {}
    ids = [problem.id for problem, _ in tasks]

    def records() -> Iterator[Record]:
        return all_records(folder, len(settings), ids)

    results = [record.result for record in records()]
    write_tables(config, results, records, bad, folder)
    metrics = search_metrics(results, bad, counts)
    remove_journals(folder)
    return metrics


def separator_of(config: SearchConfig) -> str:
    """Where steps end.

    Raises:
        ValueError: the recipe says something else than what the reward model was trained with.
    """
    trained = saved_options(config.scorer_model).get("step_separator") if config.scorer_model else None
    if trained and config.step_separator not in ("", trained):
        raise ValueError(
            f"step_separator: {config.step_separator!r} is not {trained!r}, with which {config.scorer_model} "
            "was trained; leave it out"
        )
    return config.step_separator or trained or "\n\n"


def check_logprobs(settings: Sequence[SearchStrategy], engine: Engine) -> None:
    """Refuse, before anything is searched, a setting whose log-probabilities the engine does not give.

    Raises:
        ValueError: there is one; names it.
    """
    for strategy in settings:
        if strategy.needs_logprobs and not engine.has_logprobs:
            raise ValueError(
                f"strategies: {strategy.title} needs log-probabilities (rule: puct), and {engine.name} gives "
                "none through this engine; take rule: uct"
            )


def draw_searches(
    config: SearchConfig,
    settings: Sequence[SearchStrategy],
    tasks: Sequence[Task],
    engine: Engine,
    scorer: Scorer | None,
    folder: Path,
    counts: Counter[str],
) -> None:
    """Search every problem in every setting. Finished ones go to journals in `folder`, from which a killed
    run goes on; in a launch of several processes each searches a part of the problems."""
    wait()  # for the run folder, which the first process makes
    total = -(-len(tasks) // workers()) * len(settings)
    with Progress(total=total, desc="searches", unit="problem") as bar:
        for number, strategy in enumerate(settings):
            bar.set_postfix_str(strategy.title)
            done = set(finished_records(folder, number))
            bar.update(len(done) // workers())
            if done:
                logger.info("%s: going on after %d finished searches", strategy.title, len(done))
            with journal_of(folder, number, worker()) as journal:
                for lot in _lots(config, strategy, tasks, engine):
                    missing = [task for task in lot if task[0].id not in done]
                    if missing and engine.repeatable:
                        missing = lot
                    for records in _search_lot(config, strategy, missing, engine, scorer, counts):
                        new = [record for record in records if record.result.problem.id not in done]
                        journal.append(record_row(record) for record in new)
                        done.update(record.result.problem.id for record in new)
                        tokens = sum(record.result.cost.generated_tokens for record in new)
                        bar.update(len(new), tokens=tokens)
    wait()


def _lots(
    config: SearchConfig, strategy: SearchStrategy, tasks: Sequence[Task], engine: Engine
) -> Iterator[Sequence[Task]]:
    """The problems of this process, longest prompts first, some at a time."""
    budget = config.search_budget(engine)
    ordered = sorted(tasks, key=lambda task: -len(task[1].ids))
    tokens = strategy.rows * (len(ordered[0][1].ids) + config.max_tokens)
    at_once = max(1, min(budget.live_rows // strategy.rows, budget.live_tokens // tokens))
    own, size = ordered[worker() :: workers()], PROBLEMS_PER_LOT * at_once
    for start in range(0, len(own), size):
        yield own[start : start + size]


def _search_lot(
    config: SearchConfig,
    strategy: SearchStrategy,
    tasks: Sequence[Task],
    engine: Engine,
    scorer: Scorer | None,
    counts: Counter[str],
) -> Iterator[list[Record]]:
    """Records of problems as their searches end; nothing is kept from what was searched before."""
    for holder in (engine, scorer):
        if callable(forget := getattr(holder, "forget", None)):
            forget()
    form = thinking_format(config.thinking_format)
    used = None if strategy.label == Majority.label else scorer
    for searched in search(tasks, engine, used, strategy, config.search_budget(engine), form, counts):
        records = make_records(searched, strategy, engine, form, config.policy)
        counts["unverifiable"] += sum(a.verdict == "unverifiable" for r in records for a in r.attempts)
        yield records


def write_tables(
    config: SearchConfig,
    results: Sequence[SearchResult],
    records: Callable[[], Iterator[Record]],
    bad: Sequence[Rejected],
    folder: Path,
) -> None:
    """searches, nodes, attempts (the candidates of all settings) and step_labels."""
    form = thinking_format(config.thinking_format)
    separator = config.step_separator
    labelled = (each for r in records() for each in labelled_candidates(r, form, separator))
    write_rows(table_path(folder, "searches"), map(result_row, results), "searches")
    write_rows(table_path(folder, "nodes"), (row for r in records() for row in r.nodes), "nodes")
    write_attempts(folder, _numbered(records()))
    write_labelled(folder, labelled)
    write_rejected(folder, bad)


def _numbered(records: Iterator[Record]) -> Iterator[Attempt]:
    """The candidates, with an index that is a problem's own over all settings."""
    indices: Counter[str] = Counter()
    for record in records:
        for attempt in record.attempts:
            yield replace(attempt, index=indices[attempt.problem.id])
            indices[attempt.problem.id] += 1


def search_metrics(
    results: Sequence[SearchResult], bad: Sequence[Rejected], counts: Counter[str]
) -> dict[str, Any]:
    """Accuracy and cost of every setting, and what was counted in this process."""
    by_setting: dict[str, list[SearchResult]] = defaultdict(list)
    for result in results:
        by_setting[result.setting].append(result)
    table = {title: _setting_metrics(own) for title, own in by_setting.items()}
    flat = {f"{title} {c}": row[c] for title, row in table.items() for c in CHOICES if c in row}
    return {
        "problems": len({result.problem.id for result in results}),
        "searches": len(results),
        "rejected": len(bad),
        "tokens": sum(result.cost.generated_tokens for result in results),
        **(flat if len(flat) <= 6 else {}),
        "settings": table,
        "counts": dict(counts),
    }


def _setting_metrics(results: Sequence[SearchResult]) -> dict[str, float]:
    def mean(values: Iterator[float]) -> float:
        return sum(values) / len(results)

    choices = [c for c in CHOICES if any(r.chosen[c] >= 0 for r in results)]
    flops = mean(r.cost.policy_flops + r.cost.scorer_flops for r in results)
    return {
        **{choice: mean(r.right(choice) for r in results) for choice in choices},
        "unanswered": mean(max(r.chosen.values()) < 0 for r in results),
        "generated_tokens": mean(r.cost.generated_tokens for r in results),
        "scorer_tokens": mean(r.cost.scorer_tokens for r in results),
        **({} if math.isnan(flops) else {"flops": flops}),  # JSON has no nan
        "seconds": mean(r.cost.seconds for r in results),
    }


if __name__ == "__main__":
    run_stage(run_search, SearchConfig, shares=True)
