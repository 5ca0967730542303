"""Stage `label_domains`: give every problem a domain, from a column, a model at an endpoint, or clusters."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import httpx

from data.chat_endpoint import ask, backoff_pause, chat_body, chat_client
from data.domains import Taxonomy, cluster_questions, load_taxonomy
from data.progress import Progress
from data.schema import Attempt, Problem
from data.stage import run_stage
from data.store import Journal, read_attempts, read_problems, write_attempts, write_problems

logger = logging.getLogger(__name__)

JOURNAL = "labels.jsonl"
_LONGEST_RETRY_AFTER_SECONDS = 1_000_000


@dataclass(kw_only=True)
class LabelDomainsConfig:
    """Where the problems are, and how they get their domains."""

    problems: str
    """Folder with problems.parquet; problems of every role are labelled."""
    traces: list[str] = field(default_factory=list)
    """Folders with traces.parquet; their rows are written with the domains of their problems."""
    method: Literal["column", "endpoint", "clusters"] = "clusters"
    """column: copy a column. endpoint: ask a model. clusters: group by words, nothing is downloaded."""
    column: str = "domain"
    """domain, level, source or metadata.NAME: where method column finds the domain."""
    mapping: dict[str, str] = field(default_factory=dict)
    """Domain for each value of the column; values that it lacks are unknown. Empty keeps the values."""
    taxonomy: str = "msc"
    """msc, or a JSON file {"code": "title"}: what the model may answer."""
    base_url: str = ""
    """Endpoint up to and with its version, as in http://localhost:8000/v1."""
    model: str = ""
    """Name of the model at the endpoint."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable with the key; no key is sent where it is not set."""
    max_tokens: int = 64
    """Longest reply; a model that thinks first needs more."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """More fields of the request; null leaves a field out (temperature: null)."""
    concurrency: int = 16
    """Requests under way at a time."""
    timeout_seconds: float = 60.0
    """Longest time for one request."""
    retries: int = 6
    """Further attempts after a failure that may pass."""
    backoff_seconds: float = 1.0
    """First wait before a further attempt; it doubles, up to a minute, and a longer Retry-After counts."""
    max_failed_share: float = 0.0
    """Share of problems that may stay without a reply; with more the stage fails, and goes on when started
    again."""
    clusters: int = 50
    """Groups of method clusters."""
    seed: int = 0
    """Seed of the clusters."""

    def __post_init__(self) -> None:
        if self.method == "endpoint":
            if not re.match(r"https?://[^/]", self.base_url):
                raise ValueError(f"base_url: {self.base_url!r} must begin with http:// or https://")
            if not self.model:
                raise ValueError("model: name the model at the endpoint")
            load_taxonomy(self.taxonomy)
        if self.method == "column" and not re.fullmatch(r"domain|level|source|metadata\..+", self.column):
            raise ValueError(f"column: {self.column!r} is not domain, level, source or metadata.NAME")
        for key in ("concurrency", "timeout_seconds", "max_tokens", "clusters"):
            if getattr(self, key) <= 0:
                raise ValueError(f"{key}: {getattr(self, key)} must be above 0")
        for key in ("retries", "backoff_seconds", "max_failed_share"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key}: {getattr(self, key)} must be at least 0")


def label_domains(config: LabelDomainsConfig, folder: Path) -> dict[str, Any]:
    """Write problems.parquet (and traces.parquet where traces are given) with a domain in every row.

    Problems whose domain could not be told keep the empty domain and are counted; labels.jsonl holds the
    model's reply for each. Killed and started again, method endpoint asks only for what is missing.

    Raises:
        ValueError: no problems, a trace of another problem, or more failures than `max_failed_share`.
    """
    problems = read_problems(config.problems)
    if not problems:
        raise ValueError(f"problems: {config.problems} holds no problem")
    traces = [trace for path in config.traces for trace in read_attempts(path, "traces")]
    strangers = {trace.problem.id for trace in traces} - {problem.id for problem in problems}
    if strangers:
        raise ValueError(
            f"traces: {len(strangers)} problems of the traces are not in {config.problems}, the first is "
            f"{min(strangers)}; give the problems that they came with"
        )
    domains, counts = _domains(config, problems, folder)
    write_problems(folder, [replace(problem, domain=domains[problem.id]) for problem in problems])
    if config.traces:
        write_attempts(folder, [_relabelled(trace, domains) for trace in traces], "traces")
    known = Counter(domains[problem.id] for problem in problems if domains[problem.id])
    return {
        "problems": len(problems),
        "domains": len(known),
        "unknown": len(problems) - known.total(),
        **counts,
        "domain_sizes": dict(known.most_common()),
    }


def _domains(
    config: LabelDomainsConfig, problems: Sequence[Problem], folder: Path
) -> tuple[dict[str, str], dict[str, int]]:
    """Domain by problem id, empty where it is unknown, and further counts."""
    if config.method == "column":
        return {problem.id: column_domain(problem, config.column, config.mapping) for problem in problems}, {}
    if config.method == "clusters":
        questions = [problem.question for problem in problems]
        names = cluster_questions(questions, config.clusters, config.seed).names
        return {problem.id: name for problem, name in zip(problems, names, strict=True)}, {}
    return _ask_endpoint(config, problems, folder)


def column_domain(problem: Problem, column: str, mapping: dict[str, str]) -> str:
    """The problem's value of `column` (see the config), through the mapping; empty where there is none."""
    if column.startswith("metadata."):
        value = problem.metadata.get(column.removeprefix("metadata."))
    else:
        value = getattr(problem, column)
    text = "" if value is None else str(value).strip()
    return mapping.get(text, "") if mapping else text


def _relabelled(trace: Attempt, domains: dict[str, str]) -> Attempt:
    return replace(trace, problem=replace(trace.problem, domain=domains[trace.problem.id]))


# ------------------------------------------------------------------ endpoint


def _ask_endpoint(
    config: LabelDomainsConfig, problems: Sequence[Problem], folder: Path
) -> tuple[dict[str, str], dict[str, int]]:
    taxonomy = load_taxonomy(config.taxonomy)
    with Journal(folder / JOURNAL) as journal:
        done = {row["id"]: row["domain"] for row in journal.rows}
        if done:
            logger.info("going on after %d labelled problems", len(done))
        missing = {problem.id: problem for problem in problems if problem.id not in done}
        failures = asyncio.run(_ask_all(config, taxonomy, list(missing.values()), journal, done))
    if failures:
        reasons = "; ".join(f"{n} x {why}" for why, n in Counter(failures.values()).most_common(3))
        message = f"{len(failures)} of {len(problems)} problems got no reply: {reasons}"
        if len(failures) > config.max_failed_share * len(problems):
            raise ValueError(f"base_url: {message}; start again to go on, or raise max_failed_share")
        logger.warning("%s", message)
    outside = sum(not domain for domain in done.values())
    return done | dict.fromkeys(failures, ""), {"outside_taxonomy": outside, "failed": len(failures)}


async def _ask_all(
    config: LabelDomainsConfig,
    taxonomy: Taxonomy,
    problems: Sequence[Problem],
    journal: Journal,
    done: dict[str, str],
) -> dict[str, str]:
    """Fill `done` and the journal; the reason for each problem that got no reply."""
    failures: dict[str, str] = {}
    left = iter(problems)
    with Progress(total=len(problems), desc="label", unit="problem", disable=not problems) as bar:
        async with chat_client(config.api_key_env, config.timeout_seconds, config.concurrency) as client:

            async def work() -> None:
                for problem in left:
                    reply, failure = await _ask(client, config, taxonomy.prompt(problem.question))
                    if failure:
                        failures[problem.id] = failure
                    else:
                        domain = taxonomy.read(reply) or ""
                        journal.append([{"id": problem.id, "domain": domain, "reply": reply[-500:]}])
                        done[problem.id] = domain
                    bar.update()

            async with asyncio.TaskGroup() as group:
                for _ in range(min(config.concurrency, len(problems))):
                    group.create_task(work())
    return failures


async def _ask(client: httpx.AsyncClient, config: LabelDomainsConfig, prompt: str) -> tuple[str, str]:
    """(reply, "") or ("", why there is none)."""
    content = prompt.encode("utf-8", "replace").decode("utf-8")
    body = chat_body(config.model, content, config.max_tokens, config.extra_body)
    reason = ""
    for attempt in range(config.retries + 1):
        reply = await ask(client, config.base_url, body, config.timeout_seconds)
        if reply.text is not None:
            return reply.text, ""
        reason = reply.reason
        if reply.final:
            break
        asked = reply.retry_after_seconds
        if attempt < config.retries:
            pause = backoff_pause(config.backoff_seconds, attempt)
            await asyncio.sleep(max(pause, asked if asked < _LONGEST_RETRY_AFTER_SECONDS else 0.0))
    return "", reason


if __name__ == "__main__":
    run_stage(label_domains, LabelDomainsConfig)
