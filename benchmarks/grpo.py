"""Seconds per GRPO step: our trainer against stock `trl.GRPOTrainer`, with the same learning curve.

    python -m benchmarks.grpo [--quick] [--steps N] [--seeds N] [--smollm]

Both sides train the quickstart's base model on the same questions in the same order, with the same rewards,
hyperparameters and seeds, in float32 on the CPU, in turns in one process. Completions are drawn with random
numbers of their own, so the two curves agree in distribution; the share of right answers over the last third
of the steps is compared over the seeds.

The reference is TRL's trainer as a user of TRL has it: prompts as text, `generate`, padded rows, attention by
sdpa. Its rewards are ours, so that the verifier is no part of the difference. The other ways take one thing
at a time into ours and are measured over the first seed; `old log-probabilities` is another setting (each
generation serves two steps), in which TRL makes a further forward pass over all rows.

Times are those of whole steps, without the first two. Two threads, as the machine has two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any, NamedTuple

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from transformers import TrainerCallback
from transformers.utils import logging

from data.prompts import Prompter
from data.schema import Problem
from data.small_world import generate_problems
from data.thinking import THINK_TAGS
from inference.models import cached_folder, load_tokenizer
from rewards.registry import build_rewards
from training.grpo import GrpoConfig, make_trainer
from training.grpo_questions import usable
from training.grpo_trainer import GrpoTrainer
from training.questions import Questions

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
REWARDS = ["accuracy", "format"]
WARM_UP = 2
"""Steps that are not timed."""


class Work(NamedTuple):
    """What is trained."""

    model: str
    problems: list[Problem]
    options: dict[str, Any]
    """Of trl.GRPOConfig."""


class Turn(NamedTuple):
    """One run."""

    seconds_per_step: float
    useful_per_step: float
    """Groups whose rewards differ."""
    right: float
    """Share of right completions over the last third of the steps."""


Build = Callable[[Work, Path, int], Any]
"""(work, folder, seed) -> trainer."""


# ------------------------------------------------------------------ the work


def small_world(folder: Path, *, quick: bool) -> Work:
    """The quickstart's base model, pretrained here, and its questions."""
    from training.pretrain import PretrainConfig, pretrain

    steps = {"drill_steps": 5, "flawless_steps": 5, "mixture_steps": 5} if quick else {}
    pretrain(PretrainConfig(**steps), folder / "base")
    problems = generate_problems(100 if quick else 1000, 1, "train", min_steps=4, max_steps=8)
    return Work(
        model=str(folder / "base"),
        problems=problems,
        options={
            "num_generations": 4 if quick else 16,
            "per_device_train_batch_size": 16 if quick else 256,
            "max_completion_length": 128,
            "learning_rate": 5e-4,
            "loss_type": "dapo",
            "adam_beta2": 0.95,
        },
    )


def smollm() -> Work:
    """SmolLM2-135M-Instruct on sums of two numbers."""
    from data.generated import reasoning_gym_problems

    options = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1, "allow_negation": False}
    return Work(
        model=SMOLLM2,
        problems=reasoning_gym_problems("chain_sum", 100, 1, "train", options),
        options={
            "num_generations": 8,
            "per_device_train_batch_size": 32,
            "max_completion_length": 32,
            "learning_rate": 1e-5,
            "loss_type": "dapo",
        },
    )


def arguments(work: Work, folder: Path, seed: int, steps: int, **options: Any) -> Any:
    from trl import GRPOConfig

    fixed: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": steps,
        "lr_scheduler_type": "constant",
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
    }
    return GRPOConfig(**{**fixed, **work.options, **options})


def prompter(work: Work) -> Prompter:
    return Prompter(tokenizer=load_tokenizer(work.model), style="direct", thinking_format=THINK_TAGS)


# ------------------------------------------------------------------ the ways


def stock(steps: int, **options: Any) -> Build:
    """TRL's own trainer."""

    def build(work: Work, folder: Path, seed: int) -> Any:
        from datasets import Dataset
        from trl import GRPOTrainer

        prompts = prompter(work)
        rows = [{"prompt": prompts.prompt(p.question).text, "answer": p.answer} for p in work.problems]
        args = arguments(work, folder, seed, steps, **options)
        args.model_init_kwargs = {"dtype": "float32"}
        return GRPOTrainer(
            model=str(cached_folder(work.model)) if work.model == SMOLLM2 else work.model,
            reward_funcs=[reward.function for reward in build_rewards(REWARDS)],
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=prompts.tokenizer,
        )

    return build


def ours(steps: int, attention: str = "documents", skips: bool = True, **options: Any) -> Build:
    """Our trainer; with `attention` sdpa it pads, and without `skips` it forwards rows without gradient."""

    def build(work: Work, folder: Path, seed: int) -> Any:
        from trl import ModelConfig

        config = GrpoConfig(
            problems="", rewards=list(REWARDS), full_length_first=False, log_rollouts_every=1, language="en"
        )
        args = arguments(work, folder, seed, steps, **options)
        prompts, rewards = prompter(work), build_rewards(REWARDS)
        kept, _ = usable(work.problems, prompts, rewards, longest_prompt=10_000)
        questions = Questions(kept, num_generations=args.num_generations, seed=seed)
        model = ModelConfig(model_name_or_path=work.model, attn_implementation=attention)
        trainer = make_trainer(config, args, model, prompts, rewards, questions)
        if not skips:
            trainer.__class__ = type("Forwards", (GrpoTrainer,), {"_only_advantages_count": False})
        return trainer

    return build


# ------------------------------------------------------------------ measuring


class StepTimes(TrainerCallback):
    """Seconds of each step, from the end of the one before."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        import time

        self.ends.append(time.perf_counter())


def take_turn(build: Build, work: Work, seed: int) -> Turn:
    """Train and measure."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(work, Path(folder), seed)
        times = StepTimes()
        trainer.add_callback(times)
        trainer.train()
    history = [step for step in trainer.state.log_history if "frac_reward_zero_std" in step]
    seconds = [end - begin for begin, end in zip(times.ends, times.ends[1:], strict=False)][WARM_UP - 1 :]
    groups = trainer.args.generation_batch_size // trainer.args.num_generations
    useful = [groups * (1 - step["frac_reward_zero_std"]) for step in history]
    late = [step["rewards/accuracy/mean"] for step in history[-max(1, len(history) // 3) :]]
    return Turn(
        seconds_per_step=mean(seconds),
        useful_per_step=mean(useful),
        right=mean(value for value in late if value is not None),
    )


def compare(work: Work, ways: dict[str, Build], seeds: int) -> dict[str, list[Turn]]:
    """Every way with every seed, in turns; the order turns too."""
    turns: dict[str, list[Turn]] = {name: [] for name in ways}
    for seed in range(seeds):
        for name in list(ways) if seed % 2 == 0 else list(ways)[::-1]:
            turns[name].append(take_turn(ways[name], work, seed))
            print(f"seed {seed}, {name}: {turns[name][-1]}", flush=True)
    return turns


def difference(first: list[float], second: list[float]) -> dict[str, float | None]:
    """Mean of the paired differences, and its 95 % interval by Student's t (none for one pair)."""
    pairs = [a - b for a, b in zip(first, second, strict=True)]
    if len(pairs) < 2:
        return {"mean": pairs[0], "low": None, "high": None}
    from scipy.stats import t

    half = t.ppf(0.975, len(pairs) - 1) * stdev(pairs) / len(pairs) ** 0.5
    return {"mean": mean(pairs), "low": mean(pairs) - half, "high": mean(pairs) + half}


def summary(turns: dict[str, list[Turn]]) -> dict[str, Any]:
    """The headline: ours against stock."""
    ours_turns, stock_turns = turns["ours"], turns["stock TRL"]
    pairs = list(zip(ours_turns, stock_turns, strict=True))
    return {
        "seconds_per_step_ratio": median(a.seconds_per_step / b.seconds_per_step for a, b in pairs),
        "seconds_per_step_ratios": [a.seconds_per_step / b.seconds_per_step for a, b in pairs],
        "useful_groups_ratio": sum(a.useful_per_step for a, _ in pairs)
        / sum(b.useful_per_step for _, b in pairs),
        "right_difference": difference([a.right for a, _ in pairs], [b.right for _, b in pairs]),
        "right": {"ours": [a.right for a, _ in pairs], "stock": [b.right for _, b in pairs]},
    }


def parts(work: Work, steps: int) -> dict[str, float]:
    """Seconds per step of one seed, with one more thing at a time; then of steps off the policy."""
    half = work.options["per_device_train_batch_size"] // 2
    twice: dict[str, Any] = {"steps_per_generation": 2, "per_device_train_batch_size": half}
    ways = {
        "stock TRL": stock(steps),
        "+ our generation": ours(steps, attention="sdpa", skips=False),
        "+ rows without gradient left out": ours(steps, attention="sdpa"),
        "+ packed rows, prompts once (ours)": ours(steps),
        "old log-probabilities: stock TRL": stock(steps, **twice),
        "old log-probabilities: ours": ours(steps, **twice),
    }
    return {name: turn[0].seconds_per_step for name, turn in compare(work, ways, 1).items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grpo", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="a run of seconds that shows that it works")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--smollm", action="store_true", help="SmolLM2-135M-Instruct on sums too (slow)")
    options = parser.parse_args()
    steps, seeds = (4, 1) if options.quick else (options.steps, options.seeds)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(2)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        work = small_world(Path(folder), quick=options.quick)
        result = summary(compare(work, {"stock TRL": stock(steps), "ours": ours(steps)}, seeds))
        result["parts_seconds_per_step"] = parts(work, min(steps, 12))
    if options.smollm:
        real = smollm()
        turns = compare(real, {"stock TRL": stock(5), "ours": ours(5)}, 1)
        result["smollm_seconds_per_step_ratio"] = summary(turns)["seconds_per_step_ratio"]
        result["smollm_seconds_per_step"] = {name: turn[0].seconds_per_step for name, turn in turns.items()}
    print_table(result)
    print(json.dumps(result))


def print_table(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="seconds per step (one seed)")
    for column in ("way", "seconds", "of stock"):
        table.add_column(column, justify="left" if column == "way" else "right")
    seconds = result["parts_seconds_per_step"]
    for name, value in seconds.items():
        base = seconds["old log-probabilities: stock TRL" if name.startswith("old") else "stock TRL"]
        table.add_row(name, f"{value:.3f}", f"{value / base:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
