"""The batch script of a stage: what the site asks for, how many nodes and GPUs, and the template filled in.

The site file (`--slurm-config`, $SLOWTHINK_SLURM or ~/.config/slowthink/slurm.yaml) has the fields of `Site`.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.did_you_mean import did_you_mean
from data.field_values import parse_mapping
from data.recipe import Recipe, resolve
from data.run_folder import pipeline_folder
from launch.pipeline import is_launched, launch_config, processes
from launch.stages import STAGES, find_stage

TEMPLATE = Path(__file__).parent / "templates" / "stage.sbatch"


@dataclass(frozen=True, kw_only=True)
class Site:
    """What jobs ask of the cluster. `stages:` beside these keys has them again where they are other ones for
    a kind of stage (`sample`) or one stage (`r1/03_sample`)."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str | None = None
    """Limit of a job, in quotes: "24:00:00". A stage that reaches it is saved, queued again and goes on."""
    mem: str | None = None
    """Memory of a node: "0" is all of it."""
    cpus_per_task: int | None = None
    """Of each node, since one task on each starts its processes."""
    gpus_per_node: int | None = None
    """Where it is not given: the processes on each machine of a `launch:` that uses GPUs, one (or
    tensor_parallel_size) for a generating stage without, none for others."""
    gpu_type: str | None = None
    """For --gpus-per-node=TYPE:N."""
    grace_seconds: int = 300
    """How long before the time limit a stage is asked to stop: a training step and a checkpoint must fit."""
    max_requeues: int = 30
    """How often a job that was asked to stop is put back into the queue. A stage without checkpoints or
    journals (collect, mix) begins anew each time and would never end with too short a time limit."""
    array: int = 1
    """In so many jobs at the same time the rows of a sample, evaluate, search or label_steps stage are made;
    one more job gathers them."""
    setup: list[str] = field(default_factory=list)
    """Lines that the script begins with: `module load cuda`, `source .venv/bin/activate`."""
    sbatch: list[str] = field(default_factory=list)
    """Further #SBATCH lines, such as "--exclusive"."""
    command: str = f"{shlex.quote(sys.executable)} -m launch.cli"
    """How `slowthink` is started on the nodes."""
    template: str = str(TEMPLATE)
    """Another script template (jinja2); begin with a copy of launch/templates/stage.sbatch."""

    def __post_init__(self) -> None:
        least_of = {"array": 1, "grace_seconds": 1, "cpus_per_task": 1, "gpus_per_node": 0, "max_requeues": 0}
        for name, least in least_of.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name}: {value} must be at least {least}")
        if not Path(self.template).is_file():
            raise ValueError(f"template: {self.template} does not exist")
        if self.time and seconds_of(self.time) <= 2 * self.grace_seconds:
            raise ValueError(
                f"time: {self.time} is no more than twice grace_seconds ({self.grace_seconds}): a job would "
                "be asked to stop as soon as it runs; give it more time, or set a lower grace_seconds"
            )


def seconds_of(time: str) -> int:
    """Seconds of one of Slurm's times: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S (man sbatch, --time).

    Raises:
        ValueError: it is none.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if match is None:
        raise ValueError(f'time: {time!r} is not one of Slurm\'s times, such as "24:00:00" or "2-12:00:00"')
    days, *parts = (int(part) if part else None for part in match.groups())
    first, second, third = parts
    if days is not None:
        return 86400 * days + 3600 * (first or 0) + 60 * (second or 0) + (third or 0)
    if third is not None:
        return 3600 * (first or 0) + 60 * (second or 0) + third
    return 60 * (first or 0) + (second or 0)


def load_site(path: Path | None) -> dict[str, Any]:
    """The content of the site file; empty where none is named and there is none in the home folder.

    Raises:
        ValueError: a file that is named does not exist, is no mapping, or has a key or value that `Site` has
            not.
    """
    import yaml

    named = path or (Path(os.environ["SLOWTHINK_SLURM"]) if os.environ.get("SLOWTHINK_SLURM") else None)
    path = named or Path.home() / ".config" / "slowthink" / "slurm.yaml"
    if not path.is_file():
        if named:
            raise ValueError(f"{path}: no such site file")
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from error
    stages = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(stages or {}, dict):
        raise ValueError(f"{path}: a site file is a mapping, and `stages:` in it one of stages to mappings")
    for name, options in {"": content, **(stages or {})}.items():
        key = f"{path}: stages: {name}" if name else str(path)
        if name and "/" not in name and name not in STAGES:
            hint = did_you_mean(name, STAGES, "write a kind of stage or PIPELINE/STAGE")
            raise ValueError(f"{path}: stages: no stage {name!r}; {hint}")
        own = {k: v for k, v in (options or {}).items() if name or k != "stages"}
        if isinstance(own.get("time"), int):
            raise ValueError(f"{key}: time: write it in quotes, since YAML reads 1:30:00 as a number")
        parse_mapping(Site, own, key, "a site file")
    return content


def site_of(content: Mapping[str, Any], recipe: Recipe) -> Site:
    """What the site file says of a stage.

    Raises:
        ValueError: an array for a stage that is not done in shares.
    """
    stages = content.get("stages") or {}
    options = {key: value for key, value in content.items() if key != "stages"}
    for name in (recipe.stage, f"{recipe.path.resolve().parent.name}/{recipe.name}"):
        options |= stages.get(name) or {}
    site = Site(**options)
    if site.array > 1 and not find_stage(recipe.stage).parallel:
        able = ", ".join(name for name, stage in STAGES.items() if stage.parallel)
        raise recipe.error(f"array: stage {recipe.stage!r} is not done in shares; those that are: {able}")
    return site


def script(recipe: Recipe, site: Site, logs: Path, *, shares: int = 0) -> str:
    """The batch script of a stage, or of an array of its `shares`.

    Raises:
        ValueError: the processes do not spread evenly over the machines.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.keep_trailing_newline = True
    template = environment.from_string(Path(site.template).read_text(encoding="utf-8"))
    nodes, gpus = _nodes_and_gpus(recipe)
    gpus = gpus if site.gpus_per_node is None else site.gpus_per_node
    server = _server(recipe, gpus)
    return template.render(
        recipe=recipe,
        site=dataclasses.asdict(site),
        log=logs / f"{recipe.name}.{'%A_%a' if shares else '%j'}.out",
        nodes=nodes,
        gpus=gpus,
        shares=shares,
        server=server,
        stage_command=_stage_command(recipe, site, nodes, served=server is not None).replace("'", "'\\''"),
        again=f"{recipe.run_command} --on slurm",
    )


def _nodes_and_gpus(recipe: Recipe) -> tuple[int, int]:
    """Machines of a stage, and GPUs of each."""
    import yaml

    if is_launched(recipe):
        config = yaml.safe_load(launch_config(recipe).read_text(encoding="utf-8"))
        nodes = int(recipe.launch.get("num_machines") or config["num_machines"])
        each, rest = divmod(processes(recipe), nodes)
        if rest:
            raise recipe.error(f"launch: {processes(recipe)} processes do not spread over {nodes} machines")
        on_cpu = config.get("use_cpu") or recipe.fields.get("use_cpu")
        return nodes, 0 if on_cpu else each
    if find_stage(recipe.stage).parallel and recipe.fields.get("engine") != "openai":
        return 1, int((recipe.fields.get("engine_options") or {}).get("tensor_parallel_size", 1))
    return 1, 0


def _stage_command(recipe: Recipe, site: Site, nodes: int, *, served: bool) -> str:
    """What bash runs on each node."""
    command = f"exec {site.command} {recipe.stage} --config {shlex.quote(str(recipe.path))}"
    if nodes > 1:
        command += ' --machine_rank "$SLURM_PROCID" --main_process_ip "$SLOWTHINK_MAIN_IP"'
        command += ' --main_process_port "$SLOWTHINK_MAIN_PORT"'
    return command + (' --vllm_server_base_url "$SLOWTHINK_SERVER_URL"' if served else "")


def _server(recipe: Recipe, gpus: int) -> dict[str, Any] | None:
    """The vLLM server that TRL's trainers ask in server mode (trl 1.16: trl/scripts/vllm_serve.py)."""
    fields = resolve(recipe, pipeline_folder(recipe))
    if not fields.get("use_vllm") or fields.get("vllm_mode", "colocate") != "server":
        return None
    options = {
        "tensor-parallel-size": gpus,
        "max-model-len": fields.get("vllm_max_model_length"),
        "weight-transfer-config": '{"backend":"nccl"}',
        "logprobs-mode": "processed_logprobs",
        "max-logprobs": -1,
    }
    flags = [part for key, value in options.items() if value is not None for part in (f"--{key}", str(value))]
    command = [
        "vllm",
        "serve",
        fields["model_name_or_path"],
        "--host",
        "0.0.0.0",
        *flags,
        "--enable-scale-out",
    ]
    return {"gpus": gpus, "command": shlex.join(command)}
