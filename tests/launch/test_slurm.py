"""Batch scripts, and a whole pipeline under a real Slurm with a stage that is preempted."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.recipe import load_recipe
from data.run_folder import read_manifest
from data.store import read_json, read_rows
from launch.cli import main
from launch.slurm_script import load_site, script, seconds_of, site_of
from tests.launch.slurm_cluster import SlurmCluster, missing

ROOT = Path(__file__).resolve().parents[2]

RECIPES: dict[str, dict[str, Any]] = {
    "01_collect": {"stage": "collect", "sources": [{"path": "DATA", "role": "train"}]},
    "02_sample": {
        "stage": "sample",
        "problems": "run:01_collect",
        "model_name_or_path": "MODEL",
        "num_completions": 2,
        "max_tokens": 12,
        "batch_size": 4,
        "limit": 20,
    },
    "03_curate": {
        "stage": "curate",
        "problems": "run:01_collect",
        "traces": ["run:01_collect"],
        "attempts": ["run:02_sample"],
        "require_correct": False,
        "size": 20,
    },
    "04_sft": {
        "stage": "sft",
        "launch": {"config": "ddp_cpu", "num_machines": 2, "num_processes": 2},
        "dataset": "run:03_curate",
        "model_name_or_path": "MODEL",
        "pad_token": "<|fim_pad|>",
        "max_length": 256,
        "per_device_train_batch_size": 1,
        "max_steps": 150,
        "logging_steps": 1,
        "save_strategy": "no",
        "learning_rate": 1.0e-3,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
    },
    "05_evaluate": {
        "stage": "evaluate",
        "model_name_or_path": "run:04_sft",
        "benchmarks": [{"path": "DATA", "role": "eval", "limit": 10}],
        "max_tokens": 12,
    },
}
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
"""States of a job that has ended; one that is put back into the queue is not in it for a moment."""


def write_recipes(folder: Path, data: Path, model: Path, **changes: Any) -> Path:
    """A recipe folder; `changes` are fields of stages, or None to leave a stage out."""
    folder.mkdir(parents=True)
    for name, fields in RECIPES.items():
        text = yaml.safe_dump({**fields, **changes.get(name, {})}, sort_keys=False)
        (folder / f"{name}.yaml").write_text(text.replace("DATA", str(data)).replace("MODEL", str(model)))
    return folder


@pytest.fixture
def pipeline(tmp_path: Path, tiny_model: Path) -> Path:
    rng = random.Random(0)
    data = tmp_path / "sums.jsonl"
    with open(data, "w") as file:
        for i in range(100):
            a, b = rng.randint(1, 99), rng.randint(1, 99)
            row = {"question": f"Sum {i}: what is {a} + {b}?", "answer": str(a + b)}
            row |= {"thinking": f"{a} + {b} is {a + b}.", "response": f"\\boxed{{{a + b}}}"}
            file.write(json.dumps(row) + "\n")
    return write_recipes(tmp_path / "recipes" / "tiny", data, tiny_model)


# ------------------------------------------------------------------ scripts


@pytest.fixture
def submitted(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Dry-runs a submission with a site file; returns what was printed and the scripts by name."""
    monkeypatch.setenv("SLOWTHINK_RUNS", str(tmp_path / "runs"))

    def submit(site: dict[str, Any], capsys: pytest.CaptureFixture[str], *options: str) -> Any:
        (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))
        flags = ["--on", "slurm", "--dry-run", "--slurm-config", str(tmp_path / "site.yaml"), *options]
        code = main(["run", str(pipeline), *flags])
        scripts = {path.stem: path for path in (tmp_path / "runs" / "tiny" / "slurm").glob("*.sbatch")}
        return code, capsys.readouterr(), scripts

    return submit


def options_of(path: Path) -> set[str]:
    lines = path.read_text().splitlines()
    return {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}


def test_each_stage_has_a_script_that_waits_for_what_it_reads(
    submitted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    site = {
        "partition": "gpu",
        "time": "24:00:00",
        "cpus_per_task": 8,
        "setup": ["module load cuda"],
        "sbatch": ["--exclusive"],
        "stages": {"collect": {"partition": "cpu"}, "tiny/02_sample": {"array": 4, "gpus_per_node": 1}},
    }
    code, said, scripts = submitted(site, capsys)
    assert code == 0
    assert sorted(scripts) == sorted([*RECIPES, "02_sample.shares"])
    for path in scripts.values():
        subprocess.run(["bash", "-n", str(path)], check=True)
        assert "module load cuda\n" in path.read_text()
    commands = [line.split() for line in said.out.splitlines() if line.lstrip().startswith("sbatch")]
    waits = {Path(c[-1]).stem: next((o for o in c if "dependency" in o), "") for c in commands}
    assert waits["01_collect"] == ""
    assert "<01_collect>" in waits["02_sample.shares"]
    assert waits["02_sample"].strip("'") == "--dependency=afterok:<02_sample.shares>"
    assert waits["03_curate"].strip("'") == "--dependency=afterok:<01_collect>:<02_sample>"
    assert "<04_sft>" in waits["05_evaluate"]

    shares = options_of(scripts["02_sample.shares"])
    assert {"--array=0-3", "--nodes=1", "--gpus-per-node=1", "--partition=gpu", "--exclusive"} <= shares
    assert "export SLOWTHINK_SHARE=$SLURM_ARRAY_TASK_ID/4" in scripts["02_sample.shares"].read_text()
    assert "SLOWTHINK_SHARE" not in scripts["02_sample"].read_text()
    assert "--partition=cpu" in options_of(scripts["01_collect"])
    sft = options_of(scripts["04_sft"])
    assert {"--nodes=2", "--requeue", "--signal=B:USR1@300", "--time=24:00:00"} <= sft
    assert not any("gpus" in option for option in sft), "ddp_cpu uses none"
    assert '--machine_rank "$SLURM_PROCID"' in scripts["04_sft"].read_text()


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ({"partion": "gpu"}, "a site file has no 'partion'; did you mean 'partition'?"),
        ({"time": 86400}, "time: write it in quotes"),
        ({"stages": {"sampel": {}}}, "no stage 'sampel'; did you mean 'sample'?"),
        ({"stages": {"curate": {"array": 4}}}, "stage 'curate' is not done in shares"),
        ({"stages": {"sample": {"array": 0}}}, "array: 0 must be at least 1"),
        ({"template": "/nowhere"}, "template: /nowhere does not exist"),
        ({"time": "one day"}, "'one day' is not one of Slurm's times"),
        ({"stages": {"collect": {"time": "10:00"}}}, "is no more than twice grace_seconds (300)"),
    ],
)
def test_a_wrong_site_file_is_refused(
    submitted: Any, capsys: pytest.CaptureFixture[str], site: dict[str, Any], message: str
) -> None:
    code, said, _ = submitted(site, capsys)
    assert code == 2
    assert message in said.err


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("2:30", 150), ("1:00:05", 3605), ("2-12", 216000), ("1-0:30", 88200), ("1-1:1:1", 90061)],
)
def test_times_are_read_as_slurm_does(time: str, seconds: int) -> None:
    assert seconds_of(time) == seconds


def test_a_stage_whose_input_is_neither_finished_nor_submitted_is_refused(
    submitted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said, _ = submitted({}, capsys, "--from", "03_curate")
    assert code == 2
    assert "run:01_collect is neither finished nor submitted" in said.err


def test_grpo_in_server_mode_has_one_more_node_that_generates(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLOWTHINK_SLURM", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = load_recipe(ROOT / "recipes" / "r1_zero" / "04_grpo_32b.yaml")
    text = script(recipe, site_of(load_site(None), recipe), tmp_path)
    path = tmp_path / "04_grpo_32b.sbatch"
    path.write_text(text)
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert {"--nodes=3", "--gpus-per-node=8"} <= options_of(path)
    assert "server=${hosts[2]}" in text
    assert "vllm serve Qwen/Qwen2.5-32B --host 0.0.0.0 --tensor-parallel-size 8 --max-model-len 17408" in text
    assert '--vllm_server_base_url "$SLOWTHINK_SERVER_URL"' in text
    assert '--nodes=2 --ntasks=2 --ntasks-per-node=1 --nodelist="$(IFS=,; echo "${hosts[*]:0:2}")"' in text


def program(folder: Path, name: str, text: str) -> None:
    """In place of a program of the cluster."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


def test_preemption_leaves_the_server_to_the_trainer_until_it_has_saved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SIGTERM reaches the server's step first; the trainer ends later, and then the server."""
    told, server = tmp_path / "told", tmp_path / "server"
    os.mkfifo(server)
    programs = tmp_path / "programs"
    program(programs, "scontrol", "printf 'a\\nb\\nc\\n'")
    program(programs, "srun", 'while [[ $1 == --* ]]; do shift; done; exec "$@"')
    on_term = f'trap "echo server ended >> {told}; exit" TERM'
    program(programs, "vllm", f"{on_term}; echo $PPID $$ > {server}; while sleep 0.1; do :; done")
    asks = f"read wrapper vllm < {server}; kill -TERM $wrapper; kill -0 $vllm && kill -TERM $wrapper"
    program(programs, "trainer", f"{asks} && echo trainer saved >> {told}; exit 3")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    recipe = load_recipe(ROOT / "recipes" / "r1_zero" / "04_grpo_32b.yaml")
    path = tmp_path / "job.sbatch"
    path.write_text(script(recipe, site_of({"command": "trainer"}, recipe), tmp_path))
    environment = {**os.environ, "SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "a,b,c"}
    # the pipe of its output is closed when the server has ended, too
    done = subprocess.run(["bash", str(path)], env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 3
    assert told.read_text().splitlines() == ["trainer saved", "server ended"]


def test_shares_in_the_queue_are_not_submitted_again(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When sbatch has taken them, but refused the job that gathers them."""
    monkeypatch.setenv("SLOWTHINK_RUNS", str(tmp_path / "runs"))
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({"stages": {"sample": {"array": 2}}}))
    asked = tmp_path / "asked"
    sbatch = f"echo $* >> {asked}; [[ $* == */02_sample.sbatch && ! -e {tmp_path}/mended ]] && exit 1; "
    program(tmp_path / "programs", "sbatch", sbatch + f"wc -l < {asked}")
    program(tmp_path / "programs", "squeue", "echo 1 2")
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:{os.environ['PATH']}")
    submit = ["run", str(pipeline), "--on", "slurm", "--slurm-config", str(tmp_path / "site.yaml")]
    assert main(submit) == 2
    (tmp_path / "mended").touch()
    assert main(submit) == 0
    assert "= 02_sample.shares: job 2 is in the queue" in capsys.readouterr().out
    lines = asked.read_text().splitlines()
    assert [Path(line.split()[-1]).stem for line in lines] == [
        *("01_collect", "02_sample.shares", "02_sample"),
        *("02_sample", "03_curate", "04_sft", "05_evaluate"),
    ]
    assert "--dependency=afterok:2 " in lines[3]


# ------------------------------------------------------------------ a real Slurm


def slowthink(cluster: SlurmCluster, runs: Path, *arguments: str) -> str:
    environment = {**cluster.environment, "SLOWTHINK_RUNS": str(runs), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "launch.cli", *arguments],
        cwd=ROOT,
        env={**environment, "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def losses(folder: Path) -> list[list[float]]:
    """Step and loss of each step."""
    entries = [entry for entry in read_json(folder / "log_history.json") if "loss" in entry]
    return [[entry["step"], entry["loss"]] for entry in entries]


def log_of(folder: Path, stage: str) -> str:
    """What its jobs have printed; the progress bars of two nodes cut into each other's letters."""
    return "".join(path.read_text(errors="replace") for path in sorted(folder.glob(f"{stage}.*.out")))


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.skipif(missing() is not None, reason=missing() or "")
def test_a_pipeline_with_a_preempted_stage_and_one_that_fails(pipeline: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    logs = runs / "tiny" / "slurm"
    site = tmp_path / "site.yaml"
    lines = ["export SLOWTHINK_MAIN_IP=127.0.0.1"]  # n1 and n2 are names of this machine that do not resolve
    content = {"setup": lines, "gpus_per_node": 0, "grace_seconds": 60, "stages": {"sample": {"array": 2}}}
    site.write_text(yaml.safe_dump(content))
    submit = ("run", str(pipeline), "--on", "slurm", "--slurm-config", str(site))
    with SlurmCluster() as cluster:
        said = slowthink(cluster, runs, *submit)
        jobs = read_json(logs / "jobs.json")
        assert set(jobs) == {*RECIPES, "02_sample.shares"}
        assert f"> 05_evaluate: job {jobs['05_evaluate']} after {jobs['04_sft']} ->" in said
        again = slowthink(cluster, runs, *submit)
        assert f"= 04_sft: job {jobs['04_sft']} is in the queue" in again
        assert read_json(logs / "jobs.json") == jobs, "nothing is submitted twice"

        sft = jobs["04_sft"]
        cluster.wait_for(lambda: "'loss'" in log_of(logs, "04_sft") or sft not in cluster.jobs(), 300)
        assert cluster.shown(jobs["05_evaluate"])["Reason"] == "Dependency"
        cluster.run("scancel", "--batch", "--signal=USR1", sft)  # as Slurm does before the time limit
        cluster.wait_for(lambda: cluster.shown(sft)["Restarts"] == "1", 120)
        cluster.wait_for(lambda: cluster.shown(sft)["JobState"] == "PENDING", 60)
        manifest = read_manifest(runs / "tiny" / "04_sft")
        assert manifest is not None
        assert (manifest["status"], manifest["error"][:14]) == ("interrupted", "asked to stop;")
        # Slurm holds it two minutes; a node takes no job anew within the second in which it ended it
        cluster.run("scontrol", "update", f"JobId={sft}", "StartTime=now+5seconds")

        broken = write_recipes(tmp_path / "recipes" / "broken", tmp_path / "absent.jsonl", tmp_path / "model")
        slowthink(cluster, runs, "run", str(broken), "--on", "slurm", "--slurm-config", str(site))
        failing = read_json(runs / "broken" / "slurm" / "jobs.json")
        last = (jobs["05_evaluate"], failing["05_evaluate"])
        cluster.wait_for(lambda: all(cluster.shown(job)["JobState"] in ENDED for job in last), 300)
        assert cluster.shown(jobs["05_evaluate"])["JobState"] == "COMPLETED"
        assert cluster.shown(failing["01_collect"])["JobState"] == "FAILED"
        assert cluster.shown(failing["05_evaluate"])["JobState"] == "CANCELLED"
    failed = log_of(runs / "broken" / "slurm", "01_collect")
    assert "absent.jsonl" in failed
    assert "01_collect: failed with code 2. Jobs of stages that read it are cancelled" in failed
    assert f"slowthink run {broken} --on slurm" in failed

    assert log_of(logs, "04_sft").count("asked to stop; back into the queue") == 1
    assert "share 1/2 is in the journals" in log_of(logs, "02_sample")
    assert "going on after 40 finished completions" in log_of(logs, "02_sample")
    assert len(read_rows(runs / "tiny" / "02_sample" / "attempts.parquet", "attempts")) == 40
    for stage in RECIPES:
        manifest = read_manifest(runs / "tiny" / stage)
        assert manifest is not None, log_of(logs, stage)[-3000:]
        assert manifest["status"] == "finished", log_of(logs, stage)[-3000:]
    flags = ["--num_machines", "1", "--output_dir", str(tmp_path / "undisturbed")]
    slowthink(cluster, runs, "sft", "--config", str(pipeline / "04_sft.yaml"), *flags)
    undisturbed = losses(tmp_path / "undisturbed")
    assert len(undisturbed) == RECIPES["04_sft"]["max_steps"]
    assert losses(runs / "tiny" / "04_sft") == [pytest.approx(step, abs=1e-4) for step in undisturbed]
