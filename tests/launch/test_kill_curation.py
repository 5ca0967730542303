"""SIGKILL in the stages that shape a dataset: started again, each ends with the same rows and numbers."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data.run_folder import read_manifest
from data.schema import Attempt, Completion, Problem, problem_id
from data.store import read_json, write_attempts, write_problems
from tests.launch.test_kill import finish, kill_after, start

RECIPES = {
    "01_label_domains": """
stage: label_domains
problems: POOL
traces: [POOL]
method: clusters
clusters: 8
""",
    "02_curate": """
stage: curate
problems: run:01_label_domains
traces: [run:01_label_domains]
max_thinking_tokens: 36
size: 120
""",
    "03_control_sets": """
stage: control_sets
traces: run:02_curate
kind: steps
thinking_format: think_tags
bins: [1, 2, 4]
""",
}
THINGS = ("apples", "boats", "drums", "grapes", "hats", "jars", "kites", "lamps", "maps", "owls", "rings")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe folder of the three stages over traces made on the spot."""
    folder = tmp_path_factory.mktemp("kill_curation") / "recipes" / "tiny"
    folder.mkdir(parents=True)
    rng = random.Random(0)
    traces = []
    for n in range(600):
        a, b, things = rng.randint(1, 99), rng.randint(1, 99), " and ".join(rng.sample(THINGS, 3))
        question = f"Box {n} holds {a} + {b} {things}; how many is that?"
        problem = Problem(id=problem_id(question), question=question, answer=str(a + b))
        completion = Completion(
            text="",
            thinking="\n\n".join([f"I add {a} and {b}."] * rng.randint(1, 5) + [f"It is {a + b}."]),
            response=str(a + b),
            finish_reason="stop",
            prompt_tokens=9,
            thinking_tokens=rng.randint(1, 40),
            completion_tokens=50,
            model="m",
            seed=0,
        )
        traces.append(
            Attempt(problem=problem, index=0, completion=completion, verdict="correct", extracted="")
        )
    pool = folder.parent / "pool"
    write_problems(pool, [trace.problem for trace in traces])
    write_attempts(pool, traces, "traces")
    for name, text in RECIPES.items():
        (folder / f"{name}.yaml").write_text(text.replace("POOL", str(pool)))
    return folder


def module_command(pipeline: Path, stage: str) -> list[str]:
    """Without the command line, whose start takes longer than some of these stages."""
    return ["-m", f"data.{stage[3:]}", "--config", str(pipeline / f"{stage}.yaml")]


def kill_at_first_table(process: subprocess.Popen, folder: Path) -> None:
    """SIGKILL the stage's whole process group when a table, or the beginning of one, is in its folder."""
    while process.poll() is None and not any(folder.rglob("*.parquet*")):
        time.sleep(0.001)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def hit(pipeline: Path, stage: str, runs: Path, kill: Callable[[subprocess.Popen, int], None]) -> None:
    """Start the stage and kill it; where the kill came too late, once more with the next try's number."""
    folder = runs / "tiny" / stage
    for late in range(8):
        process = start(pipeline, stage, runs, module_command(pipeline, stage))
        kill(process, late)
        manifest = read_manifest(folder)
        if manifest is None or manifest["status"] != "finished":
            assert process.returncode == -signal.SIGKILL
            return
        shutil.rmtree(folder)
    pytest.fail(f"no kill hit {stage}")


@pytest.mark.slow
def test_killed_curation_ends_with_the_same_rows(pipeline: Path, tmp_path: Path) -> None:
    rng = random.Random(7)
    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    for stage in RECIPES:
        expected = finish(pipeline, stage, quiet, module_command(pipeline, stage))
        manifest = read_manifest(expected)
        assert manifest is not None
        folder, seconds = killed / "tiny" / stage, rng.uniform(0, 0.9 * manifest["seconds"])
        hit(pipeline, stage, killed, lambda process, late: kill_at_first_table(process, folder))  # noqa: B023
        hit(pipeline, stage, killed, lambda process, late: kill_after(process, folder, seconds / (1 + late)))  # noqa: B023
        result = finish(pipeline, stage, killed, module_command(pipeline, stage))
        tables = sorted(path.relative_to(expected) for path in expected.rglob("[!.]*.parquet"))
        assert len(tables) == {"01_label_domains": 2, "02_curate": 3, "03_control_sets": 2}[stage]
        for table in tables:
            assert pq.read_table(result / table).equals(pq.read_table(expected / table)), (stage, table)
        assert read_json(result / "metrics.json") == read_json(expected / "metrics.json")
