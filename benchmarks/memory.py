"""Predicted against measured peak memory of training steps on this machine's CPU.

    python -m benchmarks.memory [--quick] [--only PATTERN]

Each cell trains two optimizer steps with the trainer of stage sft, grpo or prm, in processes of its own, and
is predicted by `training.memory_plan` without having run. Measured is the most resident memory (VmHWM of
Linux, reset by clear_refs) beyond what was resident before the model was loaded and after a first, tiny
training in the same process, which loads the libraries. So that memory which is freed is not counted, malloc
is told to give back at once whatever is larger than 64 KiB (MALLOC_MMAP_THRESHOLD_). Needs Linux, and SmolLM2
(`slowthink fetch-model smollm2`) for its tokenizer and for the cells with it.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
SHAPES: dict[str, dict[str, Any]] = {
    "8M": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 8},
    "57M": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 10},
}
"""Qwen2 models with random weights and SmolLM2's vocabulary."""
WARM_UP_TOKENS = 128
MIB = 1 << 20
TOLERANCE = 0.15


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training."""

    stage: str
    model: str
    tokens: int
    rows: int = 1
    checkpointing: bool = False
    lora: bool = False
    accumulation: int = 1
    launch: str = "none"
    attention: str = "sdpa"

    @property
    def name(self) -> str:
        extra = [
            word
            for word, present in (
                ("checkpointing", self.checkpointing),
                ("LoRA", self.lora),
                (f"accumulation {self.accumulation}", self.accumulation > 1),
                (self.attention, self.attention != "sdpa"),
                (f"{self.launch}, 2 processes", self.launch != "none"),
            )
            if present
        ]
        return f"{self.stage} {self.model} {self.rows} x {self.tokens} {', '.join(extra)}".strip()


def cells(quick: bool) -> list[Cell]:
    """Stages, models, lengths, micro-batches, checkpointing, adapters, launches."""
    few = [
        Cell(stage="sft", model="57M", tokens=1024, rows=4),
        Cell(stage="sft", model="57M", tokens=1024, rows=4, checkpointing=True),
        Cell(stage="prm", model="57M", tokens=1024, rows=4),
    ]
    if quick:
        return few
    made = []
    for model in ("8M", "57M", "smollm2"):
        for tokens, rows in ((256, 1), (256, 4), (1024, 1), (1024, 4)):
            for checkpointing in (False, True):
                made.append(
                    Cell(stage="sft", model=model, tokens=tokens, rows=rows, checkpointing=checkpointing)
                )
    made += [
        Cell(stage="sft", model="57M", tokens=1024, rows=1, accumulation=2),
        Cell(stage="sft", model="smollm2", tokens=1024, rows=1, accumulation=2, checkpointing=True),
        Cell(stage="sft", model="57M", tokens=1024, rows=4, lora=True),
        Cell(stage="sft", model="smollm2", tokens=1024, rows=4, lora=True),
        Cell(stage="sft", model="smollm2", tokens=1024, rows=4, lora=True, checkpointing=True),
        Cell(stage="sft", model="57M", tokens=1024, rows=4, attention="documents"),
        *(few[2:]),
        Cell(stage="prm", model="smollm2", tokens=256, rows=4),
        Cell(stage="prm", model="smollm2", tokens=1024, rows=4),
        Cell(stage="prm", model="smollm2", tokens=1024, rows=4, checkpointing=True),
        Cell(stage="prm", model="smollm2", tokens=1024, rows=1, lora=True),
        Cell(stage="grpo", model="57M", tokens=256, rows=4),
        Cell(stage="grpo", model="57M", tokens=256, rows=4, attention="documents"),
        Cell(stage="grpo", model="57M", tokens=512, rows=4, checkpointing=True),
        Cell(stage="grpo", model="smollm2", tokens=256, rows=4),
        Cell(stage="sft", model="57M", tokens=1024, rows=1, launch="ddp"),
        Cell(stage="sft", model="57M", tokens=1024, rows=1, launch="zero2"),
        Cell(stage="sft", model="57M", tokens=1024, rows=1, launch="zero3"),
        Cell(stage="sft", model="smollm2", tokens=256, rows=1, launch="ddp"),
        Cell(stage="sft", model="smollm2", tokens=256, rows=1, launch="zero2"),
        Cell(stage="sft", model="smollm2", tokens=256, rows=1, launch="zero3"),
    ]
    return made


# ------------------------------------------------------------------ a cell in its own process


def arguments(cell: Cell, folder: Path, model: str, tokens: int) -> tuple[Any, Any, Any]:
    """Configs of the stage."""
    from transformers import TrainingArguments
    from trl import GRPOConfig, ModelConfig, SFTConfig

    from training.grpo import GrpoConfig
    from training.prm import PrmConfig
    from training.sft import SftConfig

    sharded = cell.launch.startswith("zero")
    shared: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": cell.rows,
        "gradient_accumulation_steps": cell.accumulation,
        "gradient_checkpointing": cell.checkpointing,
        "use_cpu": not sharded,
        **({"ddp_backend": "gloo"} if sharded else {}),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": False,
        "seed": 0,
    }
    lora: dict[str, Any] = (
        {"use_peft": True, "lora_r": 16, "lora_target_modules": ["all-linear"]} if cell.lora else {}
    )
    attention = "documents" if cell.stage == "grpo" and cell.attention == "documents" else cell.attention
    loaded = ModelConfig(model_name_or_path=model, attn_implementation=attention, **lora)
    if cell.stage == "sft":
        packed: dict[str, Any] = {"padding_free": True} if cell.attention == "documents" else {}
        return SftConfig(dataset=""), SFTConfig(**shared, max_length=tokens, **packed), loaded
    if cell.stage == "prm":
        return PrmConfig(dataset=["-"], max_length=tokens), TrainingArguments(**shared), loaded
    prompt = 64
    options: dict[str, Any] = {"num_generations": cell.rows, "max_completion_length": tokens - prompt}
    own = GrpoConfig(problems="", rewards=["accuracy"], language=None, log_rollouts_every=0)
    return own, GRPOConfig(**shared, **options), loaded


def trainer_of(cell: Cell, configs: tuple[Any, Any, Any], tokenizer: Any, tokens: int) -> Any:
    """The stage's own trainer on rows of exactly so many tokens (grpo: a prompt and what it may generate)."""
    from data.prompts import Prompter
    from data.thinking import thinking_format

    own, args, model = configs
    prompter = Prompter(tokenizer=tokenizer, style="direct", thinking_format=thinking_format("think_tags"))
    count = 2 * cell.rows * cell.accumulation * 2
    ids = [100 + number % 1000 for number in range(tokens)]
    if cell.stage == "sft":
        from data.chat import Example
        from training.sft import make_trainer

        rows = [
            ids[: tokens - number % cell.rows] for number in range(count)
        ]  # so that shorter ones are padded
        return make_trainer(args, model, prompter, [Example(input_ids=r, labels=r) for r in rows], [])
    if cell.stage == "prm":
        from training.prm import make_trainer as make_prm_trainer
        from training.step_rows import StepRow

        ends = list(range(31, tokens - cell.rows, 32))
        targets = [float(number % 2) for number in range(len(ends))]
        parts = [array("i", ids[: tokens - number % cell.rows]) for number in range(count)]
        rows = [StepRow(problem="", ids=part, ends=ends, targets=targets) for part in parts]
        return make_prm_trainer(own, args, model, tokenizer, rows, [], (1.0, 1.0))
    from data.schema import Problem, problem_id
    from rewards.registry import build_rewards
    from training.grpo import make_trainer as make_grpo_trainer
    from training.grpo_questions import usable
    from training.questions import Questions

    asked = [f"What is {number} + {number}?" for number in range(count)]
    problems = [Problem(id=problem_id(q), question=q, answer="1", source="sums") for q in asked]
    rewards = build_rewards(own.rewards, own.thinking_format, False)
    kept, _ = usable(problems, prompter, rewards, longest_prompt=64)
    args.max_completion_length = tokens - max(len(question.prompt.ids) for question in kept)
    questions = Questions(kept, curriculum="uniform", num_generations=args.num_generations, seed=0)
    return make_grpo_trainer(own, args, model, prompter, rewards, questions)


def measure(cell: Cell, model: str, tiny: str) -> int:
    """Bytes of the peak of this process."""
    from inference.models import load_tokenizer

    tokenizer = load_tokenizer(SMOLLM2)
    tokenizer.pad_token = (
        "<|im_start|>" if tokenizer.pad_token == tokenizer.eos_token else tokenizer.pad_token
    )
    _train(cell, tiny, tokenizer, min(cell.tokens, WARM_UP_TOKENS))
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    _train(cell, model, tokenizer, cell.tokens)
    return _status("VmHWM") - before


def _train(cell: Cell, model: str, tokenizer: Any, tokens: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        configs = arguments(cell, Path(folder), model, tokens)
        trainer_of(cell, configs, tokenizer, tokens).train()


def _status(key: str) -> int:
    """Bytes of an entry of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


# ------------------------------------------------------------------ all cells


def predicted(cell: Cell, model: str) -> tuple[float, str]:
    """Bytes, and the moment of the peak."""
    import yaml
    from transformers import AutoConfig

    from inference.models import locate
    from launch.pipeline import ACCELERATE_CONFIGS
    from training.memory_plan import predict
    from training.stage_jobs import Launch, job_of

    with tempfile.TemporaryDirectory() as folder:
        configs = arguments(dataclasses.replace(cell, launch="none"), Path(folder), model, cell.tokens)
    launch = Launch()
    if cell.launch != "none":
        file = {"ddp": "ddp_cpu"}.get(cell.launch, cell.launch)
        values = yaml.safe_load((ACCELERATE_CONFIGS / f"{file}.yaml").read_text(encoding="utf-8"))
        launch = Launch.of(values, {"num_processes": 2, "mixed_precision": "no"})
    network = AutoConfig.from_pretrained(locate(model))
    plan = predict(job_of(configs, network, launch, rows=cell.rows, tokens=cell.tokens, gpu_bytes=None))
    return plan.total, plan.moment


def run_cell(cell: Cell, model: str, tiny: str) -> int:
    """The largest peak of the cell's processes."""
    flags: list[str] = []
    if cell.launch != "none":
        from launch.pipeline import ACCELERATE_CONFIGS

        file = {"ddp": "ddp_cpu"}.get(cell.launch, cell.launch)
        flags = ["launch.accelerated", "--config_file", str(ACCELERATE_CONFIGS / f"{file}.yaml")]
        flags += ["--num_processes", "2", "--mixed_precision", "no", "-m"]
    given = json.dumps({"cell": dataclasses.asdict(cell), "model": model, "tiny": tiny})
    environment = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_ARENA_MAX": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", *flags, "benchmarks.memory", "--cell", given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    peaks = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("PEAK ")]
    if done.returncode or not peaks:
        raise RuntimeError(f"{cell.name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return max(peaks)


def save_model(folder: Path, shape: dict[str, Any]) -> str:
    """A Qwen2 with random weights and SmolLM2's tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from inference.models import load_tokenizer

    tokenizer: Any = load_tokenizer(SMOLLM2)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        **shape,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three cells")
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="cells whose name matches this regular expression"
    )
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        given = json.loads(options.cell)
        print("PEAK", measure(Cell(**given["cell"]), given["model"], given["tiny"]), flush=True)
        return
    results = []
    with tempfile.TemporaryDirectory() as root:
        models = {name: save_model(Path(root) / name, shape) for name, shape in SHAPES.items()}
        models["smollm2"] = SMOLLM2
        tiny = save_model(
            Path(root) / "tiny", {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
        )
        print(f"{'cell':<66} {'predicted':>9} {'measured':>9} {'ratio':>6}  peak at", flush=True)
        for cell in cells(options.quick):
            if not re.search(options.only, cell.name):
                continue
            guess, moment = predicted(cell, models[cell.model])
            peak = run_cell(cell, models[cell.model], tiny)
            results.append({"cell": cell.name, "predicted": guess, "measured": peak, "ratio": guess / peak})
            numbers = f"{guess / MIB:>9.0f} {peak / MIB:>9.0f} {guess / peak:>6.2f}"
            print(f"{cell.name:<66} {numbers}  {moment}", flush=True)
    within = sum(abs(result["ratio"] - 1) <= TOLERANCE for result in results)
    print(json.dumps({"cells": len(results), "within_15_percent": within, "results": results}))


if __name__ == "__main__":
    main()
