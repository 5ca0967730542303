"""Stage `test_time`: control, scaling and performance of methods that spend thinking tokens.

Every method runs in several settings on the same problems. Each setting is one point (thinking tokens,
accuracy); `evaluation/scaling.py` makes of them what table 3 of s1 (arXiv 2501.19393) has.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from data.figures import write_png
from data.schema import Attempt, Problem
from data.stage import run_stage
from data.store import atomic_path, read_attempts, read_json, write_attempts, write_json, write_rejected
from evaluation.evaluate import benchmark_name, check_benchmarks, load_benchmark
from evaluation.methods import Method, Variant, parse_method
from evaluation.problem_values import ProblemValues, Values, write_setting_values
from evaluation.scaling import MethodSummary, Setting, problem_scores, summarise_methods
from evaluation.scaling_plot import method_markdown, method_rows, method_table, scaling_picture
from inference.draw import JOURNAL, attempt_metrics, draw, remove_journals
from inference.engine import Engine, load_engine
from inference.options import GenerationOptions

logger = logging.getLogger(__name__)

FINISHED = "finished.json"
"""Written last into the folder of a setting: what budget forcing and rejection sampling did there."""
_SET_BY_METHODS = ("max_thinking_tokens", "min_thinking_tokens", "waits", "wait_text", "resample_longer_than")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One setting: how its completions are drawn."""

    method: str
    variant: Variant
    options: GenerationOptions
    num_completions: int

    @property
    def title(self) -> str:
        name = self.variant.name
        return name if name == self.method else f"{self.method}: {name}"

    @property
    def key(self) -> str:
        """Equal for settings that the same completions serve."""
        return repr((self.options, self.num_completions))


@dataclass(kw_only=True)
class TestTimeConfig(GenerationOptions):
    """Fields of stage `test_time`; budgets, waits and votes belong to its methods."""

    benchmarks: list[dict] = field(default_factory=list)
    """Sources by id or path; `name` in an entry is its name in the table."""
    methods: list[dict] = field(default_factory=list)
    """What is compared, each {method: NAME, ...} with NAME one of: plain; budget_forcing, with lists
    max_thinking_tokens, min_thinking_tokens, waits (each value is a setting; a number instead of a list holds
    in all settings) and wait_text; token_conditional and step_conditional, with budgets, and `force: true`
    where budget forcing shall enforce them; class_conditional; rejection, with budgets; majority, with votes.
    Every entry may have its own name, temperature and num_completions."""
    temperature: float = 0.0
    """0 is greedy; rejection and majority need more."""
    num_completions: int = 1
    """Completions per problem in each setting."""

    def __post_init__(self) -> None:
        for key in _SET_BY_METHODS:
            if getattr(self, key) != GenerationOptions.__dataclass_fields__[key].default:
                raise ValueError(f"{key}: belongs to an entry of methods, for example {{method: plain}}")
        GenerationOptions.__post_init__(self)
        check_benchmarks(self.benchmarks)
        files = [_file_name(benchmark_name(entry)) for entry in self.benchmarks]
        if len(set(files)) < len(files):
            raise ValueError(f"benchmarks: names repeat in file names {files}; give them other names")
        if not self.methods:
            raise ValueError("methods: give at least one, for example {method: plain}")
        self.planned()

    def planned(self) -> list[Planned]:
        """The settings of all methods, in their order.

        Raises:
            ValueError: a mistake in a method, or two settings of one name.
        """
        settings: list[Planned] = []
        for index, entry in enumerate(self.methods):
            try:
                method = parse_method(entry)
                settings += [self._plan(method, variant) for variant in method.variants()]
            except ValueError as error:
                raise ValueError(f"methods[{index}]: {error}") from error
        (named, times), *_ = Counter((s.method, s.variant.name) for s in settings).most_common(1)
        if times > 1:
            raise ValueError(
                f"methods: {times} settings of {named[0]!r} are called {named[1]!r}; give each entry its own "
                "`name`"
            )
        return settings

    def _plan(self, method: Method, variant: Variant) -> Planned:
        temperature = self.temperature if method.temperature is None else float(method.temperature)
        number = method.completions(self.num_completions)
        if temperature == 0 and method.needs_chance:
            raise ValueError(f"{method.label} needs temperature above 0; add `temperature: 1.0` to the entry")
        if number < 1 or (temperature == 0 and number > 1):
            raise ValueError(
                f"num_completions: {number} must be at least 1, and 1 with temperature 0, where all "
                "completions are the same"
            )
        own = {f.name: getattr(self, f.name) for f in fields(GenerationOptions)}
        suffix = f"{self.question_suffix} {variant.suffix}".strip()
        options = GenerationOptions(
            **{**own, "temperature": temperature, "question_suffix": suffix, **variant.changes}
        )
        return Planned(method=method.title, variant=variant, options=options, num_completions=number)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name).strip("-.")


def test_time(config: TestTimeConfig, folder: Path) -> dict[str, Any]:
    """Draw the completions of every setting, then write table and curves of every benchmark, and
    setting_values.json.

    A stage that was stopped goes on with the setting that is not finished; settings that need the same
    completions share them.
    """
    benchmarks = {
        benchmark_name(entry): load_benchmark(entry, i) for i, entry in enumerate(config.benchmarks)
    }
    for name, own in benchmarks.items():
        if len({problem.id for problem in own}) < len(own):
            raise ValueError(f"benchmarks: {name} has a question twice; drop one of the rows")
    planned = config.planned()
    groups, rows = draw_settings(config, planned, benchmarks, folder / "settings")
    results, measured = {}, {}
    for name, problems in benchmarks.items():
        settings = [
            Setting(
                name=setting.variant.name,
                method=setting.method,
                groups=[groups[setting.key].get(problem.id, []) for problem in problems],
                low=setting.variant.low,
                high=setting.variant.high,
                votes=setting.variant.votes,
            )
            for setting in planned
        ]
        results[name] = summarise_methods(settings, seed=config.seed)
        report(name, results[name], config.model_name_or_path, folder)
        measured[name] = [measure_setting(setting) for setting in settings]
    ids = {name: [problem.id for problem in problems] for name, problems in benchmarks.items()}
    values = {
        setting.title: ProblemValues(
            settings={"model": config.model_name_or_path, "setting": setting.title},
            ids=ids,
            values={name: found[place] for name, found in measured.items()},
        )
        for place, setting in enumerate(planned)
    }
    write_setting_values(folder, values)
    return {
        **{f"{name} {s.method}": s.performance.value for name, found in results.items() for s in found},
        "tokens": sum(row["tokens"] for row in rows),
        "benchmarks": {name: method_rows(found) for name, found in results.items()},
        "settings": rows,
    }


Groups = dict[str, list[Attempt]]
"""The attempts of each problem id, without their texts."""


def draw_settings(
    config: TestTimeConfig, planned: Sequence[Planned], benchmarks: dict[str, list[Problem]], folder: Path
) -> tuple[dict[str, Groups], list[dict[str, Any]]]:
    """The attempts of each `Planned.key`, and a row of metrics for each, in a folder of its own.

    The model is loaded only where a setting is not finished.

    Raises:
        ValueError: no problem of a benchmark can be put to the model.
    """
    problems = list({problem.id: problem for own in benchmarks.values() for problem in own}.values())
    sharing: dict[str, list[Planned]] = defaultdict(list)
    for setting in planned:
        sharing[setting.key].append(setting)
    groups: dict[str, Groups] = {}
    rows, engine = [], None
    for number, (key, settings) in enumerate(sharing.items(), start=1):
        titles, own = [s.title for s in settings], folder / f"{number:02}-{_file_name(settings[0].title)}"
        logger.info("setting %d of %d: %s", number, len(sharing), ", ".join(titles))
        if not (own / FINISHED).is_file():
            engine = engine or load_engine(config)
            _draw_setting(settings[0], problems, engine, own)
        remove_journals(own)
        attempts = read_attempts(own)
        groups[key] = defaultdict(list)
        for attempt in attempts:
            groups[key][attempt.problem.id].append(_without_text(attempt))
        for name, wanted in benchmarks.items():
            if not any(problem.id in groups[key] for problem in wanted):
                raise ValueError(f"benchmark {name}: none of it fits the model; see {own / 'rejected'}")
        rows.append(
            {
                "settings": titles,
                "folder": own.name,
                "completions": len(attempts),
                **attempt_metrics(attempts),
                **read_json(own / FINISHED),
            }
        )
    return groups, rows


def _draw_setting(setting: Planned, problems: Sequence[Problem], engine: Engine, folder: Path) -> None:
    counts: Counter[str] = Counter()
    goes_on = any(path.stat().st_size for path in folder.glob(f"{JOURNAL}*"))  # whose counts are lost
    attempts, bad = draw(setting.options, problems, setting.num_completions, folder, engine, counts)
    write_attempts(folder, attempts)
    write_rejected(folder, bad)
    write_json(folder / FINISHED, {"rejected": len(bad), "counts_are_partial": goes_on, **counts})


def _without_text(attempt: Attempt) -> Attempt:
    return replace(attempt, completion=replace(attempt.completion, text="", thinking="", response=""))


def measure_setting(setting: Setting) -> dict[str, Values]:
    """Accuracy, and the tokens of all completions that vote, of each problem; none for an empty group."""
    _, thinking, _, accuracy = problem_scores(setting)
    completion = [
        setting.votes * sum(each.completion.completion_tokens for each in group) / len(group)
        if group
        else None
        for group in setting.groups
    ]
    pairs = zip(thinking.tolist(), setting.groups, strict=True)
    return {
        "accuracy": accuracy.tolist(),
        "thinking_tokens": [tokens if group else None for tokens, group in pairs],
        "completion_tokens": completion,
    }


def report(benchmark: str, summaries: Sequence[MethodSummary], model: str, folder: Path) -> None:
    """Print the table of a benchmark; write results-BENCHMARK.md and scaling-BENCHMARK.png."""
    from rich.console import Console

    title = f"{benchmark}, {model}"
    Console().print(method_table(summaries, title))
    points = [
        f"| {summary.method} | {point.name} | {tokens.value:.0f} [{tokens.low:.0f}, {tokens.high:.0f}] "
        f"| {100 * right.value:.1f} [{100 * right.low:.1f}, {100 * right.high:.1f}] |"
        for summary in summaries
        for point in summary.points
        for tokens, right in [(point.thinking_tokens, point.accuracy)]
    ]
    head = ["| method | setting | thinking tokens | accuracy, % |", "| --- | --- | ---: | ---: |"]
    text = "\n".join([f"# {title}", "", method_markdown(summaries), *head, *points]) + "\n"
    with atomic_path(folder / f"results-{_file_name(benchmark)}.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    picture = scaling_picture("scaling", method_rows(summaries), title)
    write_png(picture, folder / f"scaling-{_file_name(benchmark)}.png")


if __name__ == "__main__":
    run_stage(test_time, TestTimeConfig)
