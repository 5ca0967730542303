"""Stage `reward_model`: a reward model of whole solutions from pairs of a right and a wrong one of the same
problem, with `trl.RewardTrainer` (Bradley-Terry; InstructGPT, arXiv 2203.02155, equation 1).

Solutions are read step by step through `data/step_formats.py`, as scoring reads them; the output at the last
token is their score.
"""

from __future__ import annotations

import logging
import random
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.schema import Attempt, Rejected, attempt_from_row, attempt_row, rejected
from data.sources import refuse_eval_rows
from data.stage import run_stage
from data.step_formats import MarkerFormat, StepFormat, StepFormatOptions
from data.steps import steps_of
from data.store import iterate_rows, table_path, write_json, write_rejected
from data.thinking import ThinkingFormat, thinking_format
from inference.models import locate
from inference.scorers.outcome_scorer import save_pairwise_options
from training.loading import model_init_kwargs, training_tokenizer
from training.preflight import check_processes
from training.prm_adapter import merge_adapter
from training.prm_arguments import check_arguments
from training.reporting import set_reporting_defaults
from training.step_rows import held_out_problems

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import ModelConfig, RewardConfig, RewardTrainer

    Ids = array[int]
    Pair = tuple[Ids, Ids]  # token ids of a right and of a wrong solution

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class RewardModelConfig(StepFormatOptions):
    """Fields of stage `reward_model` beside those of trl.RewardConfig and trl.ModelConfig."""

    attempts: list[str] = field(default_factory=list)
    """Stage folders (run:02_sample) or parquet files with attempts, right and wrong ones."""
    thinking_format: str = "think_tags"
    """think_tags, answer_tags, s1 or s1_steps: whose tags are no part of a step."""
    pairs_per_problem: int | None = None
    """At most so many pairs of a problem, drawn at random; all of them where it is not given."""
    max_rejected_fraction: float = 0.0
    """Attempts that cannot be read, are too long or have no verdict are left out and kept in rejected/; more
    of them than this is an error."""
    held_out_fraction: float = 0.05
    """Problems whose pairs are held out; measured before and after."""

    def __post_init__(self) -> None:
        super().__post_init__()
        thinking_format(self.thinking_format)
        if not self.attempts:
            raise ValueError("attempts: name at least one stage folder or parquet file with attempts")
        if self.pairs_per_problem is not None and self.pairs_per_problem < 1:
            raise ValueError(f"pairs_per_problem: {self.pairs_per_problem} must be at least 1")
        for key in ("max_rejected_fraction", "held_out_fraction"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"{key}: {getattr(self, key)} must be in [0, 1)")


def reward_model(
    config: RewardModelConfig, args: RewardConfig, model: ModelConfig, folder: Path
) -> dict[str, Any]:
    """Train, resuming from the last complete checkpoint, and save a plain model folder that scorers load."""
    from training.checkpoints import newest_complete_checkpoint, resume_or_train

    check_arguments(args, model, held_out=config.held_out_fraction > 0, muon=False)
    if args.train_sampling_strategy == "group_by_length":
        raise ValueError("train_sampling_strategy: trl.RewardTrainer does not know lengths; drop it")
    check_processes(args)
    set_reporting_defaults(folder)
    tokenizer = training_tokenizer(
        model,
        trust_remote_code=args.trust_remote_code,
        eos_token=args.eos_token,
        pad_token=args.pad_token,
        chat_template_path=args.chat_template_path,
    )
    form = thinking_format(config.thinking_format)
    solved, bad = read_attempts(
        config.attempts, MarkerFormat(tokenizer, config), config, form, args.max_length
    )
    if args.process_index == 0:
        write_rejected(folder, bad)
    check_rejected(solved, bad, config.max_rejected_fraction)
    pairs = make_pairs(solved, config.pairs_per_problem, args.seed)
    train, held_out = split_by_problem(pairs, config.held_out_fraction, args.seed)
    trainer = make_trainer(args, model, tokenizer, train, held_out)
    args.eval_on_start = bool(held_out) and newest_complete_checkpoint(folder) is None
    result = resume_or_train(trainer, folder)
    if held_out:
        trainer.evaluate()
    history = trainer.state.log_history
    if args.process_index == 0:
        write_json(folder / "log_history.json", history)
        save_pairwise_options(folder, config)
        if model.use_peft:
            merge_adapter(lambda: _network(args, model), folder)
    return {
        "attempts": sum(len(each.right) + len(each.wrong) for each in solved.values()),
        "rejected": len(bad),
        "problems": len(solved),
        "one_class": len(solved) - len(pairs),
        "pairs": len(train),
        "held_out_pairs": len(held_out),
        **_measures(history),
        "train_seconds": result["train_runtime"],
    }


def _measures(history: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Held-out loss and share of pairs in the right order, before and after training."""
    entries = [entry for entry in history if "eval_loss" in entry]
    if not entries:
        return {}
    names = ("loss", "accuracy")
    before = {f"{name}_before": entries[0][f"eval_{name}"] for name in names}
    return {**before, **{name: entries[-1][f"eval_{name}"] for name in names}}


@dataclass(frozen=True, kw_only=True)
class Solved:
    """The different attempts of a problem, as token ids."""

    right: list[Ids]
    wrong: list[Ids]


def read_attempts(
    sources: Sequence[str],
    step_format: StepFormat,
    config: RewardModelConfig,
    form: ThinkingFormat,
    max_length: int | None,
) -> tuple[dict[str, Solved], list[Rejected]]:
    """Attempts by the id of their problem; the same text counts once.

    Left out, by rule: unverifiable, no_step (nothing but tags and blanks), unencodable, overlong.

    Raises:
        ValueError: a file is missing or unreadable, or rows of role eval.
    """
    solved: dict[str, Solved] = {}
    bad = []
    for attempt in _attempts(sources):
        read = _read(attempt, step_format, config.step_separator, form, max_length)
        if isinstance(read, array):
            each = solved.setdefault(attempt.problem.id, Solved(right=[], wrong=[]))
            same = each.right if attempt.verdict == "correct" else each.wrong
            if read not in same:
                same.append(read)
        else:
            bad.append(rejected(attempt_row(attempt), *read))
    return solved, bad


def _attempts(sources: Sequence[str]) -> Iterable[Attempt]:
    for source in sources:
        for row in iterate_rows(table_path(source, "attempts"), "attempts"):
            attempt = attempt_from_row(row)
            refuse_eval_rows([attempt.problem], source)
            yield attempt


def _read(
    attempt: Attempt, step_format: StepFormat, separator: str, form: ThinkingFormat, max_length: int | None
) -> Ids | tuple[str, str]:
    """Token ids, or rule and evidence."""
    if attempt.verdict == "unverifiable":
        return "unverifiable", "it is not known whether the answer is right"
    steps = [step.text for step in steps_of(attempt.completion.text, form, separator)]
    if not steps:
        return "no_step", "there is no text"
    try:
        ids = step_format.encode(attempt.problem.question, steps).ids
    except ValueError as error:
        return "unencodable", str(error)
    if max_length is not None and len(ids) > max_length:
        return "overlong", f"{len(ids)} > max_length {max_length}"
    return array("i", ids)


def check_rejected(solved: dict[str, Solved], bad: Sequence[Rejected], most: float) -> None:
    """Refuse attempts of which many cannot be used, or that hold no pair.

    Raises:
        ValueError: names the first reasons.
    """
    total = len(bad) + sum(len(each.right) + len(each.wrong) for each in solved.values())
    if len(bad) > most * total:
        shown = "\n".join(f"  {row.id}: {row.rule}: {row.evidence}" for row in bad[:5])
        raise ValueError(
            f"attempts: {len(bad)} of {total} cannot be used, more than max_rejected_fraction={most}; the "
            f"first:\n{shown}"
        )
    if not any(each.right and each.wrong for each in solved.values()):
        raise ValueError(
            f"attempts: none of {len(solved)} problems has a right and a wrong attempt; sample more "
            "completions, or harder or easier problems"
        )


def make_pairs(solved: dict[str, Solved], most: int | None, seed: int) -> dict[str, list[Pair]]:
    """Pairs of each problem that has attempts of both classes; at most `most`, drawn by the seed."""
    made = {}
    for problem, each in solved.items():
        pairs = list(product(each.right, each.wrong))
        if most is not None and len(pairs) > most:
            pairs = random.Random(f"{seed} {problem}").sample(pairs, most)
        if pairs:
            made[problem] = pairs
    return made


def split_by_problem(
    pairs: dict[str, list[Pair]], fraction: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on and held-out ones, of at least one problem; no problem is in both.

    Raises:
        ValueError: nothing would be left to train on.
    """
    out = held_out_problems(pairs, fraction, seed)
    split: tuple[list[Pair], list[Pair]] = [], []
    for problem, each in pairs.items():
        split[problem in out].extend(each)
    return split


def make_trainer(
    args: RewardConfig, model: ModelConfig, tokenizer: Any, train: Sequence[Pair], held_out: Sequence[Pair]
) -> RewardTrainer:
    """TRL's trainer on pairs of token ids."""
    from trl import RewardTrainer, get_peft_config

    args.model_init_kwargs = model_init_kwargs(model, args.model_init_kwargs)
    args.chat_template_path = None  # the tokenizer has it
    model.lora_task_type = "SEQ_CLS"  # keeps the new head trainable, and saves it
    return RewardTrainer(
        model=locate(str(model.model_name_or_path)),
        args=args,
        train_dataset=_dataset(train),
        eval_dataset=_dataset(held_out) if held_out else None,
        processing_class=tokenizer,
        peft_config=get_peft_config(model),
    )


def _dataset(pairs: Sequence[Pair]) -> Dataset:
    from datasets import Dataset

    right, wrong = ([np.frombuffer(pair[side], np.intc) for pair in pairs] for side in (0, 1))
    return Dataset.from_dict({"chosen_ids": right, "rejected_ids": wrong})


def _network(args: RewardConfig, model: ModelConfig) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(
        locate(str(model.model_name_or_path)),
        num_labels=1,
        trust_remote_code=args.trust_remote_code,
        revision=model.model_revision,
        dtype=model.dtype,
    )


if __name__ == "__main__":
    from trl import ModelConfig, RewardConfig

    run_stage(reward_model, RewardModelConfig, RewardConfig, ModelConfig)
