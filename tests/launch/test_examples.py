"""The Kubernetes and SkyPilot examples start a stage of a real recipe on the machines that it asks for."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Any

import yaml

from data.processes import add_launch_flags, with_launch_flags
from data.recipe import Recipe, load_recipe
from launch.pipeline import check_stage, processes, stage_command

ROOT = Path(__file__).resolve().parents[2]


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "docs" / "examples" / name).read_text()))


def started(script: str, **variables: str) -> Recipe:
    """The recipe as the script's `slowthink STAGE ...` sees it, checked against its stage."""
    telling = 'slowthink() { printf "%s\\n" "$@"; }\n'
    text = telling + script.replace("exec slowthink", "slowthink")
    done = subprocess.run(
        ["bash", "-euc", text],
        env={"PATH": "/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    stage, *arguments = done.stdout.splitlines()
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    add_launch_flags(parser)
    options = parser.parse_args(arguments)
    recipe = with_launch_flags(load_recipe(ROOT / options.config), options)
    assert recipe.stage == stage
    check_stage(recipe)
    return recipe


def test_kubernetes() -> None:
    service, job = documents("kubernetes.yaml")
    spec = job["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    recipe = started(container["args"][0], JOB_COMPLETION_INDEX="1")
    machines = recipe.launch["num_machines"]
    assert spec["completions"] == spec["parallelism"] == machines
    assert container["resources"]["limits"]["nvidia.com/gpu"] * machines == processes(recipe)
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert recipe.launch["main_process_ip"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert recipe.launch["machine_rank"] == 1
    command = stage_command(recipe)
    assert command[command.index("--machine_rank") + 1] == "1"
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


def test_skypilot() -> None:
    """A bucket is no folder that machines share, so that there is one machine."""
    [task] = documents("skypilot.yaml")
    recipe = started(task["run"])
    assert recipe.launch["num_machines"] == task["num_nodes"] == 1
    assert int(task["resources"]["accelerators"].partition(":")[2]) == processes(recipe)
    assert task["envs"]["SLOWTHINK_RUNS"] in task["file_mounts"]
