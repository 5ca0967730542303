"""Why a reward model of a tiny policy learns to check arithmetic, or does not.

    python -m benchmarks.prm_learning --policy runs/quickstart/05_sft [--quick] [--only NAME ...]
    python -m benchmarks.prm_learning --scored runs/quickstart/17_evaluate_prm

The policy answers questions of the small world, where the truth of every line is known. Reward models that
start from it are trained on these true labels with stage `prm`'s own code, each with one thing changed, and
measured on questions that none has seen: the AUC of steps up to the first error, and the AUC of whole
solutions by their worst step against whether the answer is right. The last line is one JSON object.

With --scored, scores that stage `evaluate_prm` gave to attempts are held against the truth instead: steps up
to the first error, and solutions by the product over their steps, against whether every line is right.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pyarrow.parquet import read_table
from transformers import TrainingArguments, logging
from trl import ModelConfig

from data.schema import Attempt
from data.small_world import check_steps, generate_problems
from data.steps import LabelledSolution, steps_of
from data.thinking import THINK_TAGS
from inference.draw import draw
from inference.models import load_tokenizer
from inference.sample import SampleConfig
from training.prm import PrmConfig, make_rows, make_trainer
from training.prm_trainer import PrmTrainer, Rows, auc
from training.step_rows import IGNORED, StepRow, class_weights

SEPARATOR = "\n"


class Data(NamedTuple):
    many: list[LabelledSolution]
    """One solution of each of many questions."""
    few: list[LabelledSolution]
    """As many solutions, of a sixteenth of the questions."""
    held_out: list[LabelledSolution]


Labels = Callable[[Sequence[bool]], list[float | None]]
"""From the truth of each line to the labels."""


def until_first_error(right: Sequence[bool]) -> list[float | None]:
    """What process labels say: nothing about what follows an error."""
    first = right.index(False) if False in right else len(right)
    return [float(line) if i <= first else None for i, line in enumerate(right)]


def whole_prefix(right: Sequence[bool]) -> list[float | None]:
    """Whether all lines so far are right, as rollouts from every step say."""
    return [float(all(right[: i + 1])) for i in range(len(right))]


class Way(NamedTuple):
    """One reward model: what differs from the reference."""

    name: str
    labels: Labels = until_first_error
    few: bool = False
    layers: int = 0
    """Fresh layers on top of the policy's."""
    steps: float = 1.0
    """Of the reference's optimizer steps."""
    learning_rate: float = 1e-2
    """Of AdamW, for what Muon does not train."""
    options: tuple[tuple[str, Any], ...] = ()
    """Of PrmConfig."""


WAYS = (
    Way("reference"),
    Way("whole-prefix labels", labels=whole_prefix),
    Way("few questions", few=True),
    Way("half the steps", steps=0.5),
    Way("twice the steps", steps=2.0),
    Way("AdamW alone, 1e-3", learning_rate=1e-3, options=(("muon_learning_rate", None),)),
    Way("AdamW alone, 3e-3", learning_rate=3e-3, options=(("muon_learning_rate", None),)),
    Way("AdamW alone, 1e-2", options=(("muon_learning_rate", None),)),
    Way("a third layer", layers=1),
    Way("balanced classes", options=(("class_weights", "balanced"),)),
    Way("+/- tokens as head", options=(("head", "tokens"),)),
)


# ------------------------------------------------------------------ the data


def make_data(policy: str, *, quick: bool) -> Data:
    """Solutions of the policy, without check passes (`Wait`), and the truth of their lines."""
    count = 64 if quick else 16_000
    return Data(
        many=solutions(policy, count, 1, "train"),
        few=solutions(policy, count // 16, 16, "train"),
        held_out=solutions(policy, 8 if quick else 200, 8, "eval"),
    )


def solutions(policy: str, problems: int, each: int, split: Any) -> list[LabelledSolution]:
    config = SampleConfig(
        problems="generated here",
        model_name_or_path=policy,
        dtype="float32",
        max_tokens=120,
        batch_size=256,
        bad_words=["Wait"],
    )
    asked = generate_problems(problems, 5, split, min_steps=4, max_steps=8)
    with tempfile.TemporaryDirectory() as folder:
        attempts, _ = draw(config, asked, each, Path(folder))
    made = [true_labels(attempt) for attempt in attempts]
    return [solution for solution in made if solution is not None]


def true_labels(attempt: Attempt) -> LabelledSolution | None:
    """The lines of an attempt, each with its truth; None where there are none, or a control token is in
    them."""
    steps = [step.text for step in steps_of(attempt.completion.text, THINK_TAGS, SEPARATOR)]
    lines = [step for step in steps if not step.startswith("\\boxed")]
    right = check_steps(attempt.problem.question, "\n".join(lines))
    if not lines or len(right) != len(lines) or "<|" in attempt.completion.text:
        return None
    return LabelledSolution(
        problem=attempt.problem,
        steps=tuple(lines),
        labels=tuple(float(line) for line in right),
        right=attempt.verdict == "correct",
    )


# ------------------------------------------------------------------ one reward model


def take_turn(way: Way, data: Data, policy: str, *, quick: bool) -> dict[str, float]:
    """Train one reward model and measure it."""
    options = {"muon_learning_rate": 5e-3, **dict(way.options)}
    config = PrmConfig(dataset=["made here"], step_separator=SEPARATOR, max_length=256, **options)
    tokenizer = load_tokenizer(policy)
    train = make_rows(config, tokenizer, labelled(data.few if way.few else data.many, way.labels)).rows
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        steps = round((4 if quick else 800) * way.steps)
        args = arguments(Path(folder), steps=steps, learning_rate=way.learning_rate)
        trainer = make_trainer(
            config,
            args,
            ModelConfig(model_name_or_path=deeper(policy, way.layers, Path(folder))),
            tokenizer,
            train,
            [],
            class_weights(train),
        )
        trainer.train()
    seconds = time.perf_counter() - started
    return {
        **measured(trainer, make_rows(config, tokenizer, data.held_out).rows, data.held_out),
        "labels": sum(len(row.ends) for row in train),
        "seconds": seconds,
    }


def labelled(solutions: Sequence[LabelledSolution], labels: Labels) -> list[LabelledSolution]:
    return [
        replace(solution, labels=tuple(labels([label == 1 for label in solution.labels])))
        for solution in solutions
    ]


def arguments(folder: Path, *, steps: int, learning_rate: float) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=96,
        per_device_eval_batch_size=256,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=20,
        adam_beta2=0.95,
        max_grad_norm=0.0,
        save_strategy="no",
        logging_strategy="no",
        use_cpu=True,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
    )


def deeper(policy: str, layers: int, folder: Path) -> str:
    """The policy with fresh layers on top that at first change nothing."""
    if not layers:
        return policy
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    config = type(model.config)(
        **{**model.config.to_dict(), "num_hidden_layers": 2 + layers, "layer_types": None}
    )
    grown = type(model)(config)
    grown.load_state_dict(model.state_dict(), strict=False)
    for layer in grown.model.layers[-layers:]:
        for last in (layer.self_attn.o_proj, layer.mlp.down_proj):
            torch.nn.init.zeros_(last.weight)
            if last.bias is not None:
                torch.nn.init.zeros_(last.bias)
    grown.save_pretrained(folder / "grown")
    load_tokenizer(policy).save_pretrained(folder / "grown")
    return str(folder / "grown")


def measured(
    trainer: PrmTrainer, rows: Sequence[StepRow], solutions: Sequence[LabelledSolution]
) -> dict[str, float]:
    """AUC of steps up to the first error, and of solutions by their worst step."""
    predicted = trainer.predict(Rows(list(rows)))
    logits, labels = torch.tensor(predicted.predictions), torch.tensor(predicted.label_ids)
    scores = logits.log_softmax(-1)[..., 1].double()
    judged = labels != IGNORED
    before = (labels == 0).int().cumsum(1) - (labels == 0).int()  # errors before this step
    counted = judged & (before == 0)
    worst = scores.masked_fill(~judged, 0).min(1).values
    right = torch.tensor([solution.right for solution in solutions])
    return {
        "step_auc": auc(scores[counted], labels[counted] == 1),
        "solution_auc": auc(worst, right),
    }


def against_truth(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """AUC of the scores of attempts (rows of scores.parquet) against the truth of their lines."""
    steps: list[tuple[float, bool]] = []
    solutions: list[tuple[float, bool]] = []
    for row in rows:
        lines = [step for step in row["steps"] if not step.startswith("\\boxed")]
        right = check_steps(row["question"], "\n".join(lines))
        if row["scores"] is None or len(right) != len(lines):
            continue
        known = right.index(False) + 1 if False in right else len(right)
        steps += zip(row["scores"][:known], right[:known], strict=True)
        solutions.append((math.prod(row["scores"]), all(right) and bool(row["right"])))
    return {
        name: auc(torch.tensor([score for score, _ in pairs]), torch.tensor([true for _, true in pairs]))
        for name, pairs in (("step_auc", steps), ("flawless_auc", solutions))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--policy", help="folder of a model of the small world")
    which.add_argument("--scored", help="folder of stage evaluate_prm with attempts of the small world")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--only", nargs="*", help="names of the ways to take")
    options = parser.parse_args()
    if options.scored:
        print(json.dumps(against_truth(read_table(Path(options.scored) / "scores.parquet").to_pylist())))
        return
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    data = make_data(options.policy, quick=options.quick)
    print(f"{'':24}{'labels':>10}{'step AUC':>10}{'solution AUC':>14}{'seconds':>9}")
    results = {}
    for way in WAYS:
        if options.only and way.name not in options.only:
            continue
        result = results[way.name] = take_turn(way, data, options.policy, quick=options.quick)
        print(
            f"{way.name:24}{result['labels']:>10}{result['step_auc']:>10.3f}{result['solution_auc']:>14.3f}"
            f"{result['seconds']:>9.0f}",
            flush=True,
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
