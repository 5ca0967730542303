"""How close a student comes to its teacher for the same generated tokens: three ways to distil.

    python -m benchmarks.distill [--quick] [--teacher FOLDER] [--student FOLDER] [--steps N] [--seeds N]

trace SFT: stage sft on the teacher's right completions. off-policy: the forward KL to the teacher on the same
completions (`on_policy_fraction: 0`). on-policy: the same divergence on completions that the student draws,
so that whose they are is the only difference (`--beta 1`: the reverse KL on them). All have the same student,
the same optimizer steps of as many rows, the same learning rate and schedule, and the same generated tokens:
on-policy runs first, then the teacher samples completions of the same questions until it has generated as
many tokens. Its wrong ones count and are not trained on.

Measured at equal steps on unseen questions, each with one completion of the student at temperature 1:
agreement (share of its tokens whose most likely token is the teacher's most likely), KL(teacher || student),
KL(student || teacher) and accuracy. `tokens_to_trace_sft_agreement_ratio` is the generated tokens with which
on-policy first has the final agreement of trace SFT, between two measurements on a straight line, by those of
trace SFT (median of the seeds, where a seed that never gets there is above all others; null if that is one).

`{seed}` in a folder stands for the seed. Without folders both models are pretrained here, the teacher a
little longer: enough to try, not to conclude from.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median_low
from typing import Any, NamedTuple

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging

from data.prompts import Prompter
from data.schema import Attempt, Problem
from data.small_world import generate_problems
from data.store import write_attempts, write_problems
from data.thinking import THINK_TAGS
from inference.draw import attempt_seed, make_attempts
from inference.engine import Request, SamplingParams
from inference.models import load_model, load_tokenizer
from inference.transformers_engine import TransformersEngine
from training.agreement import measure
from training.distill import DistillConfig, make_prompter, make_trainer
from training.distill_rows import load_rows

MAX_TOKENS = 128
WAYS = ("trace SFT", "off-policy", "on-policy")


class Work(NamedTuple):
    """What is done with one seed."""

    teacher: str
    student: str
    train: list[Problem]
    unseen: list[Problem]
    steps: int
    rows: int
    """Of an optimizer step."""
    learning_rate: float
    beta: float
    """Of on-policy."""
    only_right: bool
    """Whether wrong completions of the teacher are left out; a teacher of a few steps has no others."""
    measurements: int
    """While training; the untrained student is measured too."""
    seed: int


class Point(NamedTuple):
    """One measurement."""

    step: int
    generated_tokens: int
    """That this way had generated until then, by student or teacher."""
    agreement: float
    kl: float
    reverse_kl: float
    accuracy: float


# ------------------------------------------------------------------ measuring


class Measured(TrainerCallback):
    """Measures the student before training and at equal steps."""

    def __init__(self, work: Work, tokens: int | None) -> None:
        self.work = work
        self.tokens = tokens
        """Generated over the whole run; None: by the trainer, as it says itself."""
        self.points: list[Point] = []
        self.teacher = load_model(work.teacher, dtype="float32")
        self.trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._measure(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % max(1, self.work.steps // self.work.measurements) == 0:
            self._measure(state.global_step)

    def _measure(self, step: int) -> None:
        model = self.trainer.model
        training = model.training
        model.eval()
        attempts, rows = completions(model, self.work.student, self.work.unseen, seed=0)
        found = measure(model, self.teacher, rows)
        model.train(training)
        assert found.kl is not None
        assert found.reverse_kl is not None
        known = self.trainer.generated_tokens if self.tokens is None else self.tokens
        share = 1.0 if self.tokens is None else step / self.work.steps
        self.points.append(
            Point(step, round(known * share), found.agreement, found.kl, found.reverse_kl, accuracy(attempts))
        )
        print(f"  {self.points[-1]}", flush=True)


def completions(
    model: Any, folder: str, problems: Sequence[Problem], *, seed: int, index: int = 0
) -> tuple[list[Attempt], list[tuple[tuple[int, ...], list[int]]]]:
    """One verified completion of each problem, and prompts and completions as tokens."""
    tokenizer = load_tokenizer(folder)
    prompter = Prompter(tokenizer=tokenizer, style="direct", thinking_format=THINK_TAGS)
    engine = TransformersEngine(model, tokenizer, name=folder, batch_size=256)
    prompts = [prompter.prompt(problem.question) for problem in problems]
    seeds = [attempt_seed(seed, problem.id, index) for problem in problems]
    params = SamplingParams(max_tokens=MAX_TOKENS, temperature=1.0)
    requests = [
        Request(prompt_ids=prompt.ids, params=params, seed=of)
        for prompt, of in zip(prompts, seeds, strict=True)
    ]
    done = dict(pair for part in engine.generate(requests) for pair in part)
    drawn = [(problems[i], prompts[i], index, seeds[i], done[i]) for i in range(len(problems))]
    rows = [(prompt.ids, done[i].token_ids) for i, prompt in enumerate(prompts)]
    return make_attempts(drawn, engine, THINK_TAGS), rows


def accuracy(attempts: Sequence[Attempt]) -> float:
    return mean(attempt.verdict == "correct" for attempt in attempts)


def teacher_traces(work: Work, tokens: int) -> list[Attempt]:
    """The right ones of the completions for which the teacher generates so many tokens."""
    teacher = load_model(work.teacher, dtype="float32")
    right: list[Attempt] = []
    used, index = 0, 0
    while used < tokens:
        attempts, _ = completions(teacher, work.teacher, work.train, seed=work.seed, index=index)
        for attempt in attempts:
            if used >= tokens:
                break
            used += attempt.completion.completion_tokens
            wanted = attempt.verdict == "correct" or not work.only_right
            right += [attempt] if wanted and attempt.completion.finish_reason == "stop" else []
        index += 1
    return right


# ------------------------------------------------------------------ the ways


def arguments(work: Work, folder: Path) -> dict[str, Any]:
    """What all ways have in common."""
    return {
        "output_dir": str(folder),
        "max_steps": work.steps,
        "per_device_train_batch_size": work.rows,
        "learning_rate": work.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "logging_steps": 20,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": work.seed,
    }


def trace_sft(work: Work, folder: Path, traces: list[Attempt], tokens: int) -> list[Point]:
    """Stage sft on the traces."""
    from trl import ModelConfig, SFTConfig

    from training import sft
    from training.lint import render_traces

    args = SFTConfig(max_length=None, **arguments(work, folder))
    prompter = Prompter(tokenizer=load_tokenizer(work.student), style="direct", thinking_format=THINK_TAGS)
    examples = render_traces(prompter, traces, max_length=None).examples
    model = ModelConfig(model_name_or_path=work.student)
    return _train(sft.make_trainer(args, model, prompter, examples, []), Measured(work, tokens))


def distil(work: Work, folder: Path, traces: list[Attempt], tokens: int | None) -> list[Point]:
    """Stage distill: on the traces, or without any on-policy."""
    from trl import DistillationConfig, ModelConfig

    write_problems(folder, work.train)
    stage: dict[str, Any] = {}
    if traces:
        write_attempts(folder, traces, "traces")
        stage = {"on_policy_fraction": 0.0, "traces": str(folder)}
        if not work.only_right:
            stage["max_rejected_fraction"] = 0.9  # such as are too long with the tags that they lack
    config = DistillConfig(problems=str(folder), teacher=work.teacher, **stage)
    args = DistillationConfig(
        beta=0.0 if traces else work.beta, max_completion_length=MAX_TOKENS, **arguments(work, folder)
    )
    model = ModelConfig(model_name_or_path=work.student)
    prompter = make_prompter(config, args, model)
    tokenizer = load_tokenizer(work.teacher)
    rows, _, _ = load_rows(config, args, model, prompter, tokenizer, folder)
    trainer = make_trainer(config, args, model, prompter, rows, [])
    return _train(trainer, Measured(work, tokens))


def _train(trainer: Any, measured: Measured) -> list[Point]:
    measured.trainer = trainer
    trainer.add_callback(measured)
    trainer.train()
    return measured.points


def take_turns(work: Work) -> dict[str, list[Point]]:
    """Every way with one seed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"seed {work.seed}, on-policy", flush=True)
        points = {"on-policy": distil(work, folder / "on", [], None)}
        tokens = points["on-policy"][-1].generated_tokens
        traces = teacher_traces(work, tokens)
        if not traces:
            raise SystemExit(
                f"--teacher: nothing right in {tokens} tokens of {work.teacher}; take a better one"
            )
        print(f"seed {work.seed}, {len(traces)} right traces in {tokens} tokens; trace SFT", flush=True)
        points["trace SFT"] = trace_sft(work, folder / "sft", traces, tokens)
        print(f"seed {work.seed}, off-policy", flush=True)
        points["off-policy"] = distil(work, folder / "off", traces, tokens)
    return points


# ------------------------------------------------------------------ results


def tokens_to(points: Sequence[Point], agreement: float) -> float | None:
    """Generated tokens with which the agreement is first reached; None if it never is."""
    for before, after in itertools.pairwise(points):
        if before.agreement >= agreement:
            return before.generated_tokens
        if after.agreement >= agreement:
            share = (agreement - before.agreement) / (after.agreement - before.agreement)
            return before.generated_tokens + share * (after.generated_tokens - before.generated_tokens)
    return None


def summary(turns: Sequence[dict[str, list[Point]]]) -> dict[str, Any]:
    """Means over the seeds, and each seed's own."""
    result: dict[str, Any] = {}
    for way in WAYS:
        key = way.lower().replace(" ", "_").replace("-", "_")
        for measure_name in ("agreement", "kl", "reverse_kl", "accuracy"):
            values = [getattr(points[way][-1], measure_name) for points in turns]
            result[f"{measure_name}_{key}"] = mean(values)
            result[f"{measure_name}_{key}_by_seed"] = values
        result[f"accuracy_per_million_tokens_{key}"] = mean(
            (points[way][-1].accuracy - points[way][0].accuracy) / points[way][-1].generated_tokens * 1e6
            for points in turns
        )
    for measure_name in ("agreement", "kl", "reverse_kl", "accuracy"):
        result[f"{measure_name}_untrained"] = mean(
            getattr(points["on-policy"][0], measure_name) for points in turns
        )
    ratios = []
    for points in turns:
        last = points["trace SFT"][-1]
        needed = tokens_to(points["on-policy"], last.agreement)
        ratios.append(None if needed is None else needed / last.generated_tokens)
    middle = median_low([math.inf if ratio is None else ratio for ratio in ratios])
    result["tokens_to_trace_sft_agreement_ratio"] = None if middle == math.inf else middle
    result["tokens_to_trace_sft_agreement_ratios"] = ratios
    result["generated_tokens"] = [points["on-policy"][-1].generated_tokens for points in turns]
    return result


def print_table(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="after as many steps and generated tokens (means of the seeds)")
    names = ("agreement", "kl", "reverse_kl", "accuracy")
    for column in ("way", *names):
        table.add_column(column, justify="left" if column == "way" else "right")
    for way in ("untrained", *WAYS):
        key = way.lower().replace(" ", "_").replace("-", "_")
        table.add_row(way, *(f"{result[f'{name}_{key}']:.3f}" for name in names))
    Console().print(table)


def pretrained(folder: Path, seed: int, *, steps: int) -> dict[str, str]:
    """A teacher and a narrower student, pretrained here."""
    from training.pretrain import PretrainConfig, pretrain

    sizes = {"teacher": (64, 3), "student": (48, 1)}
    for name, (hidden, times) in sizes.items():
        counts = {f"{part}_steps": steps * times for part in ("drill", "flawless", "mixture")}
        shape: dict[str, Any] = {"hidden_size": hidden, "num_attention_heads": 2}
        pretrain(PretrainConfig(seed=seed, **shape, **counts), folder / f"{name}-{seed}")
    return {name: str(folder / f"{name}-{seed}") for name in sizes}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distill", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--quick", action="store_true", help="a run of seconds that shows that it works, wrong traces too"
    )
    parser.add_argument("--teacher", help="model folder; {seed} stands for the seed")
    parser.add_argument("--student", help="model folder of the same tokenizer; {seed} stands for the seed")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rows", type=int, default=64, help="of an optimizer step")
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--beta", type=float, default=0.0, help="of on-policy: 0 forward KL, 1 reverse KL")
    parser.add_argument("--measurements", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if (options.teacher is None) != (options.student is None):
        parser.error("--teacher and --student go together")
    if options.quick:
        options.steps, options.rows, options.seeds, options.measurements = 2, 4, 1, 1
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("training").setLevel(logging.ERROR)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    machine = (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    )
    print(machine)
    turns = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            models = {"teacher": options.teacher, "student": options.student}
            if options.teacher is None:
                models = pretrained(Path(folder), seed, steps=4 if options.quick else 200)
            turns.append(take_turns(make_work(models, options, seed)))
    result = {**summary(turns), "steps": options.steps, "rows": options.rows, "machine": machine}
    result |= {"learning_rate": options.learning_rate, "beta": options.beta}
    print_table(result)
    print(json.dumps(result))


def make_work(models: dict[str, str], options: argparse.Namespace, seed: int) -> Work:
    """The work of one seed."""
    few = options.quick
    return Work(
        teacher=models["teacher"].format(seed=seed),
        student=models["student"].format(seed=seed),
        train=generate_problems(30 if few else 1000, 1, "train", min_steps=4, max_steps=8),
        unseen=generate_problems(8 if few else 200, 2, "eval", min_steps=6, max_steps=8),
        steps=options.steps,
        rows=options.rows,
        learning_rate=options.learning_rate,
        beta=options.beta,
        only_right=not few,
        measurements=options.measurements,
        seed=seed,
    )


if __name__ == "__main__":
    main()
