"""`slowthink check --first-step`: the first optimizer steps of a training stage, for their peak memory.

    python -m launch.first_step MODULE FOLDER --config recipe.yaml ...

runs the stage of MODULE as its own launch would, on the longest rows of its data, and stops it behind the
second step: from there on the optimizer has its states while activations are held. Each process writes the
most memory it had to FOLDER/<rank>.json. All is written to a temporary folder; nothing is left behind.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.processes import rank
from data.store import read_json, write_json
from launch.findings import Examined
from launch.pipeline import end, processes, stage_command
from launch.stage_data import ready

STEPS = 2
GIB = 1 << 30


class FirstStepsDone(Exception):  # noqa: N818 (no error: it ends a run that has done what it should)
    """Raised in every process behind the last step that is wanted."""


def first_steps(found: Examined, plan: Any | None) -> None:
    """Run a stage's first steps; what they needed is added to the findings."""
    recipe = found.recipe
    names = [
        recipe.fields[key] for key in ("dataset", "problems", "model_name_or_path") if key in recipe.fields
    ]
    if not ready(found, [name for name in _flat(names) if name.startswith("run:")]):
        found.say("note", "first steps", "not run: its inputs are not there yet")
        return
    if (machines := int(recipe.launch.get("num_machines", 1))) > 1:
        text = f"not run: its launch is of {machines} machines; check a copy of the recipe for one of them"
        found.say("note", "first steps", text)
        return
    with tempfile.TemporaryDirectory(prefix="first-steps-") as root:
        folder = Path(root)
        overrides, what = _longest(found, folder)
        command = _as_first_steps(stage_command(recipe, [*_SHORT, *overrides]), folder)
        environment = {**os.environ, **recipe.environment, **_ENVIRONMENT}
        done = _run(command, environment)
        peaks = [read_json(path) for path in sorted(folder.glob("peaks/*.json"))]
        if done.returncode or len(peaks) != processes(recipe):
            last = "\n".join(f"{done.stdout}\n{done.stderr}".strip().splitlines()[-12:])
            found.say("bad", "first steps", f"failed with code {done.returncode}:\n{last}")
            return
    most = max(peak["peak_bytes"] for peak in peaks)
    kind = peaks[0]["kind"]
    guess = "" if plan is None else f", predicted {_comparable(plan) / GIB:.2f}"
    found.say("ok", "first steps", f"{most / GIB:.2f} GiB {kind}{guess}; {what}")


def _run(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The command, with its output. On Ctrl-C nothing of it is left."""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        output, errors = process.communicate()
    except KeyboardInterrupt:
        end(process)
        raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _comparable(plan: Any) -> float:
    """Bytes of a plan that are measured: torch's allocator does not know of what CUDA and NCCL take."""
    return plan.total - plan.parts.get("CUDA and NCCL", 0.0)


_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "MALLOC_MMAP_THRESHOLD_": "65536"}
"""glibc gives back at once what is freed and larger than this, so that only what is in use is resident."""
_SHORT = ("--max_steps", str(STEPS), "--save_strategy", "no", "--eval_strategy", "no", "--report_to", "none")


def _flat(values: Sequence[Any]) -> list[str]:
    return [text for value in values for text in ([value] if isinstance(value, str) else value)]


def _as_first_steps(command: Sequence[str], folder: Path) -> list[str]:
    """The command of a stage, with this module around the stage's own."""
    at = len(command) - 1 - list(reversed(command)).index("-m")
    module = command[at + 1]
    peaks, output = str(folder / "peaks"), str(folder / "output")
    own = ["-m", "launch.first_step", module, peaks]
    return [*command[:at], *own, *command[at + 2 :], "--output_dir", output]


def _longest(found: Examined, folder: Path) -> tuple[list[str], str]:
    """What makes the stage begin with its longest rows, and how to call that."""
    recipe, (own, args, _) = found.recipe, found.configs
    rows = args.per_device_train_batch_size * processes(recipe) * args.gradient_accumulation_steps * STEPS
    if recipe.stage == "sft":
        from data.prompts import Prompter
        from data.store import read_attempts, write_attempts
        from launch.stage_data import tokenizer_of
        from training.lint import render_traces

        tokenizer = tokenizer_of(found)
        if tokenizer is None:  # not at hand here; the stage will say so, or find it
            return [], "the first rows"
        traces = read_attempts(own.dataset, "traces")
        rendered = render_traces(Prompter.of(own, tokenizer), traces, max_length=args.max_length)
        order = sorted(
            zip(rendered.examples, rendered.problems, strict=True), key=lambda pair: -len(pair[0].input_ids)
        )
        wanted = {problem for _, problem in order[:rows]}
        write_attempts(folder / "longest", (t for t in traces if t.problem.id in wanted), "traces")
        return ["--dataset", str(folder / "longest"), "--eval_rows", "0"], "the longest traces"
    if recipe.stage == "grpo":
        return [], "rows at full length (full_length_first)" if own.full_length_first else "the first rows"
    if recipe.stage == "prm":
        from data.steps import labelled_row
        from data.store import write_rows
        from training.prm import read_solutions

        solutions = sorted(read_solutions(own.dataset), key=lambda s: -sum(map(len, s.steps)))[: max(rows, 2)]
        write_rows(folder / "longest" / "step_labels.parquet", map(labelled_row, solutions), "step_labels")
        more = ["--held_out_fraction", "0", "--max_rejected_fraction", "0.99"]
        return ["--dataset", str(folder / "longest"), *more], "the longest solutions"
    return [], "the first rows of its data, not the longest"


# ------------------------------------------------------------------ in each process of the stage


def main() -> None:
    """Run the stage's module with a callback that stops it; the arguments behind the first two are its."""
    from transformers import TrainerCallback, trainer
    from trl import GRPOTrainer, SFTTrainer  # noqa: F401  (libraries are not what is measured)

    module, peaks = sys.argv[1], Path(sys.argv[2])
    before = _resident_bytes("VmRSS")

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step >= STEPS:
                write_json(peaks / f"{rank()}.json", _peak(before))
                raise FirstStepsDone

    callbacks: list[Any] = trainer.DEFAULT_CALLBACKS
    callbacks.append(Stop)
    sys.argv = [sys.argv[0], *sys.argv[3:]]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except FirstStepsDone:
        os._exit(0)  # other processes do so too: none waits for another one


def _peak(before: int) -> dict[str, Any]:
    """The most memory of this process: of the GPU's allocator, or resident beyond what libraries take."""
    import torch

    if torch.cuda.is_available():
        kind = "reserved on the GPU"
        return {"kind": kind, "peak_bytes": torch.cuda.max_memory_reserved()}
    return {"kind": "resident more than at the start", "peak_bytes": _resident_bytes("VmHWM") - before}


def _resident_bytes(key: str) -> int:
    """VmRSS (now) or VmHWM (at most) of this process, where there is /proc; else 0."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), 0)


if __name__ == "__main__":
    main()
