"""Useful tokens per second of supervised fine-tuning: our padding-free rows against padded ones as s1 trains.

    python -m benchmarks.sft [--quick] [--peer PATH]

Both sides train the same small model from the same weights on the same real traces in the same order, with
the same optimizer, 8 rows per optimizer step, in float32 on the CPU. Useful tokens are those with loss.
The reference is described in benchmarks/sft_reference.py; `--peer PATH` runs train/sft.py of an s1 checkout
instead. The other ways of the table are measured once and show where the difference comes from.

Ours attends within each document (training/document_attention.py): with sdpa, transformers masks the whole
packed row, and long packs lose on a CPU what they save in padding.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.sft_reference import ROWS_PER_STEP, as_peer, as_s1, batches, settings
from benchmarks.sft_rows import PAD_NUMBER, Work, make_work, padding
from data.chat import IGNORED
from data.thinking import S1

OURS = "ours: padding-free, 8 rows per forward"
REFERENCE = "s1: padded, 8 rows per forward"
LOSS_TOLERANCE = 1e-5
"""Largest relative difference of the two summed losses (float32, other order of summation)."""

Build = Callable[[Path, Work, dict[str, Any]], Any]
"""(folder with model and tokenizer, rows, options of the trainer) -> trainer."""


class Way(NamedTuple):
    build: Build
    options: dict[str, Any]


class Turn(NamedTuple):
    """One training run; the training loop alone is timed, on the wall and of this process on the CPU."""

    seconds: float
    cpu_seconds: float
    preparation_seconds: float
    train_loss: float
    steps: int


class Check(NamedTuple):
    """All rows under the untrained weights."""

    loss: float
    useful_tokens: int
    positions: int


def save_model(folder: Path, vocabulary: int, tokenizer: Any, *, layers: int) -> int:
    """Save a randomly initialised Llama and the tokenizer; returns the number of parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            pad_token_id=PAD_NUMBER,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.num_parameters()


def ours(folder: Path, job: Work, options: dict[str, Any]) -> Any:
    """The trainer of stage `sft`."""
    from trl import ModelConfig, SFTConfig

    from data.prompts import Prompter
    from training.sft import make_trainer

    prompter = Prompter(tokenizer=job.tokenizer, style="direct", thinking_format=S1)
    options = dict(options)
    attention = options.pop("attn_implementation", None)
    model = ModelConfig(model_name_or_path=str(folder), dtype="float32", attn_implementation=attention)
    return make_trainer(
        SFTConfig(**settings(folder, job.max_length), **options), model, prompter, job.rows, []
    )


def check(trainer: Any) -> Check:
    """Summed loss through the trainer's own loss function."""
    import torch

    loss, useful, positions = 0.0, 0, 0
    trainer.model.eval()
    with torch.no_grad():
        for batch in trainer.get_train_dataloader():
            useful += int((batch["labels"][:, 1:] != IGNORED).sum())
            positions += batch["input_ids"].numel()
            loss += float(trainer.compute_loss(trainer.model, batch, num_items_in_batch=1))
    return Check(loss, useful, positions)


def take_turn(way: Way, folder: Path, job: Work) -> Turn:
    """Build the trainer from the same weights and train one epoch."""
    from transformers import Trainer, TrainerCallback

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.begun = time.perf_counter(), time.process_time()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.ended = time.perf_counter(), time.process_time()

    clock, begun = Clock(), time.perf_counter()
    trainer = quietly(way.build, folder, job, way.options)
    preparation_seconds = time.perf_counter() - begun
    trainer.add_callback(clock)
    result: Any = quietly(Trainer.train, trainer)  # not the subclass's: see as_peer
    wall, cpu = (end - begin for begin, end in zip(clock.begun, clock.ended, strict=True))
    return Turn(wall, cpu, preparation_seconds, result.training_loss, trainer.state.global_step)


def quietly(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call without the libraries' progress bars and summaries."""
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        return call(*arguments)


def ways(peer: Path | None, *, quick: bool) -> dict[str, Way]:
    """Ours and the reference first; the others show where the difference comes from."""
    ahead = {
        OURS: Way(ours, {"padding_free": True, "attn_implementation": "documents", **batches(8)}),
        REFERENCE: Way(as_peer(peer) if peer else as_s1, batches(8)),
    }
    others = {
        "s1: padded, 2 rows per forward": Way(as_s1, batches(2)),
        "s1: 1 row per forward, no padding": Way(as_s1, batches(1)),
        "ours: 1 row per forward, no padding": Way(ours, batches(1)),
        "ours: padding-free 8 rows, sdpa": Way(ours, {"padding_free": True, **batches(8)}),
        "ours: padding-free 2 rows, sdpa": Way(ours, {"padding_free": True, **batches(2)}),
        "ours: bfd packs of max_length": Way(ours, {"packing": True, "per_device_train_batch_size": 1}),
    }
    return ahead if quick else {**ahead, **others}


def measure(
    job: Work, tried: dict[str, Way], *, rounds: int, layers: int
) -> tuple[dict[str, Check], dict[str, list[Turn]]]:
    """Check the losses, then ours and the reference in turns, then every other way once.

    Raises:
        ValueError: a way has another loss, or another number of tokens with loss, than the rows have.
    """
    useful = sum(label != IGNORED for row in job.rows for label in row.labels)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        parameters = save_model(folder, job.vocabulary, job.tokenizer, layers=layers)
        print(f"model: {layers} layers, {parameters:,} parameters, vocabulary {job.vocabulary:,}", flush=True)
        checks = {}
        for name, way in tried.items():
            checks[name] = found = quietly(check, quietly(way.build, folder, job, way.options))
            relative = abs(found.loss / checks[OURS].loss - 1)
            print(f"summed loss before training {found.loss:14.4f}  {name}", flush=True)
            if found.useful_tokens != useful or relative > LOSS_TOLERANCE:
                raise ValueError(f"{name}: not the same work: {found}, rows have {useful} tokens with loss")
        turns: dict[str, list[Turn]] = {name: [] for name in tried}
        for turn in range(rounds):
            for name, way in tried.items():
                if turn == 0 or name in (OURS, REFERENCE):
                    turns[name].append(take_turn(way, folder, job))
                    print(f"round {turn + 1}: {turns[name][-1].seconds:7.1f} s  {name}", flush=True)
    return checks, turns


def summary(
    job: Work, checks: dict[str, Check], turns: dict[str, list[Turn]], seed: int, peer: Path | None
) -> dict[str, Any]:
    """The last line."""
    import torch
    import transformers
    import trl

    def rates(name: str) -> dict[str, float]:
        useful = checks[name].useful_tokens
        return {
            "useful_tokens_per_second": round(median(useful / turn.seconds for turn in turns[name]), 1),
            "useful_tokens_per_cpu_second": round(
                median(useful / turn.cpu_seconds for turn in turns[name]), 1
            ),
            "positions": checks[name].positions,
            "steps": turns[name][0].steps,
            "train_loss": turns[name][0].train_loss,
            "preparation_seconds": round(median(turn.preparation_seconds for turn in turns[name]), 2),
            "runs": len(turns[name]),
        }

    table = {name: rates(name) for name in checks}
    ours_, reference = table[OURS], table[REFERENCE]
    return {
        "benchmark": "sft",
        "useful_tokens_per_second_ratio": round(
            ours_["useful_tokens_per_second"] / reference["useful_tokens_per_second"], 2
        ),
        "useful_tokens_per_cpu_second_ratio": round(
            ours_["useful_tokens_per_cpu_second"] / reference["useful_tokens_per_cpu_second"], 2
        ),
        "ours_useful_tokens_per_second": ours_["useful_tokens_per_second"],
        "reference_useful_tokens_per_second": reference["useful_tokens_per_second"],
        "reference": f"{peer}/train/sft.py" if peer else "simplescaling/s1@77272c6:train/sft.py in our words",
        "summed_loss_ours": checks[OURS].loss,
        "summed_loss_reference": checks[REFERENCE].loss,
        "summed_loss_difference": checks[OURS].loss - checks[REFERENCE].loss,
        "summed_loss_relative_difference": abs(checks[OURS].loss / checks[REFERENCE].loss - 1),
        "rows": len(job.rows),
        "useful_tokens": checks[OURS].useful_tokens,
        "tokens": sum(len(row.input_ids) for row in job.rows),
        "max_length": job.max_length,
        "population": job.population,
        "padding_factor": round(padding(job.rows, ROWS_PER_STEP), 3),
        "padding_factor_of_population": round(job.padding_factor, 3),
        "source": job.source,
        "seed": seed,
        "ways": table,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sft", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--quick", action="store_true", help="fewer rows, a smaller model, one round, two ways"
    )
    parser.add_argument("--peer", type=Path, help="checkout of simplescaling/s1")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    root = os.environ.get("SLOWTHINK_DATA")
    traces = Path(root) / "traces" if root else None
    rows, max_length, rounds, layers = (16, 4096, 1, 2) if options.quick else (24, 4096, 3, 3)
    job = make_work(traces, rows=rows, max_length=max_length, batch=ROWS_PER_STEP, seed=options.seed)
    print(f"rows: {rows} for {job.population} of at most {max_length} tokens; {job.source}", flush=True)
    tried = ways(options.peer, quick=options.quick)
    checks, turns = measure(job, tried, rounds=rounds, layers=layers)
    result = summary(job, checks, turns, options.seed, options.peer)
    print(
        f"\n{'way':40} {'steps':>5} {'positions':>9} {'useful/s':>9} {'useful/cpu s':>12} {'train loss':>10}"
    )
    for name, row in result["ways"].items():
        speed = f"{row['useful_tokens_per_second']:9.1f} {row['useful_tokens_per_cpu_second']:12.1f}"
        print(f"{name:40} {row['steps']:5} {row['positions']:9} {speed} {row['train_loss']:10.5f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
