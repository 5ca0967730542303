"""Stage `pretrain`: a tiny Llama from scratch on the small world, so that a pipeline can run on a CPU alone.

Three phases in one run: single lines (arithmetic tables), flawless chains (copying from the question), then
the noisy mixture, in which later stages find something to improve. Small talk and hints, where the noise has
them, begin with the chains: to copy a name or to read past a hint takes the time of both phases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.chat import IGNORED
from data.processes import world
from data.reporting import set_reporting_defaults
from data.small_world import build_tokenizer
from data.small_world_texts import Noise, drills, pretraining_texts
from data.stage import run_stage

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

WARMUP_STEPS = 20
FINAL_LEARNING_RATE = 0.05
"""Share of the learning rate that is left at the end."""


@dataclass(kw_only=True)
class PretrainConfig(Noise):
    """Fields of stage `pretrain`; those of `Noise` say how the mixture goes wrong."""

    hidden_size: int = 64
    """Width of the model."""
    intermediate_size: int = 128
    """Width of the feed-forward layers."""
    num_hidden_layers: int = 2
    """Depth; two layers are needed to look up an operation by its label."""
    num_attention_heads: int = 2
    """Attention heads, which are also the key-value heads."""
    max_position_embeddings: int = 1024
    """Longest sequence in tokens."""
    drill_steps: int = 200
    """Optimizer steps on single lines."""
    drill_lines: int = 256
    """Lines per drill step."""
    flawless_steps: int = 350
    """Optimizer steps on flawless chains."""
    flawless_wait_share: float = 0.0
    """Of these, chains with a check pass or two."""
    mixture_steps: int = 250
    """Optimizer steps on the noisy mixture; the learning rate falls linearly here."""
    max_chain_steps: int = 8
    """Operations per question, one to this many."""
    batch_tokens: int = 2048
    """Tokens per step after the drills, in packed rows."""
    row_tokens: int = 256
    """Length of a packed row; a longer text is left out."""
    learning_rate: float = 5e-3
    """Learning rate of Muon, for the weight matrices of the layers."""
    adam_learning_rate: float = 1e-2
    """Learning rate of AdamW, for embeddings, norms and biases."""
    save_steps: int = 100
    """Optimizer steps between checkpoints."""
    logging_steps: int = 20
    """Optimizer steps between logged losses."""
    seed: int = 0
    """Seed of initial weights and of all texts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size: {self.hidden_size} must be an even multiple of num_attention_heads"
            )
        if not 0 < self.row_tokens <= min(self.batch_tokens, self.max_position_embeddings):
            raise ValueError(
                f"row_tokens: {self.row_tokens} must be at most batch_tokens and max_position_embeddings"
            )

    @property
    def max_steps(self) -> int:
        return self.drill_steps + self.flawless_steps + self.mixture_steps


def pretrain(config: PretrainConfig, folder: Path) -> dict[str, Any]:
    """Train, resuming from the last complete checkpoint, and save model and tokenizer in `folder`."""
    from transformers import Trainer, TrainingArguments, set_seed

    from training.checkpoints import newest_complete_checkpoint, resume_or_train

    if world() > 1:
        raise ValueError("launch: stage pretrain takes a minute of one process; use `launch: cpu`")
    set_reporting_defaults(folder)
    set_seed(config.seed)
    tokenizer = build_tokenizer(config.max_position_embeddings, talkative=config.talkative)
    model = build_model(config, tokenizer)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=config.max_steps,
            per_device_train_batch_size=1,  # an item of the dataset is a whole batch
            max_grad_norm=0.0,
            save_steps=config.save_steps,
            save_total_limit=2,
            logging_steps=config.logging_steps,
            logging_first_step=True,
            include_num_input_tokens_seen="non_padding",
            use_cpu=True,
            dataloader_pin_memory=False,
            report_to="none",
            seed=config.seed,
        ),
        train_dataset=_as_dataset(config, tokenizer),
        data_collator=_only_item,
        processing_class=tokenizer,
        optimizers=optimizer_and_schedule(config, model),
    )
    checkpoint = newest_complete_checkpoint(folder)
    tokens_before = _tokens_seen(checkpoint) if checkpoint else 0
    result = resume_or_train(trainer, folder)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tokens, seconds = trainer.state.num_input_tokens_seen, result["train_runtime"]
    return {
        "loss_start": losses[0],
        "loss_end": losses[-1],
        "tokens": tokens,
        "tokens_per_second": (tokens - tokens_before) / seconds,
        "seconds": seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def build_model(config: PretrainConfig, tokenizer: Any) -> LlamaForCausalLM:
    """A Llama with random weights, tied embeddings and, as in Qwen2, biases in attention.

    Not a Qwen2: for that type transformers 5.17 ignores the saved tokenizer class and its tokenizer.json, and
    AutoTokenizer builds another tokenizer (its MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS).
    """
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_attention_heads,
            max_position_embeddings=config.max_position_embeddings,
            tie_word_embeddings=True,
            attention_bias=True,
            bos_token_id=None,
            **ends,
        )
    )
    model.generation_config = GenerationConfig(**ends)
    return model


def optimizer_and_schedule(
    config: PretrainConfig, model: LlamaForCausalLM
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """Muon for the matrices of the layers, AdamW for the rest; constant until the mixture, then falling."""
    from torch.optim.lr_scheduler import LambdaLR

    from training.muon import muon_adamw

    optimizer = muon_adamw(model, lr=config.learning_rate, adam_lr=config.adam_learning_rate)

    def share(step: int) -> float:
        left = (config.max_steps - step) / max(1, config.mixture_steps)
        return min(1.0, (step + 1) / WARMUP_STEPS, max(FINAL_LEARNING_RATE, left))

    return optimizer, LambdaLR(optimizer, share)


# ------------------------------------------------------------------ batches

Example = tuple[list[int], list[int]]
"""Token ids of prompt and target."""
Batch = dict[str, "torch.Tensor"]
"""input_ids, labels and position_ids, each [rows, tokens]."""


def batches(config: PretrainConfig, tokenizer: Any) -> Iterator[Batch]:
    """Every batch of the run in order; the same config gives the same batches."""
    yield from islice(_drill_batches(config, tokenizer), config.drill_steps)
    flawless = Noise(
        direct_share=0,
        slip_share=0,
        careless_share=0,
        wait_share=config.flawless_wait_share,
        broken_share=0,
        talk_share=config.talk_share,
        hint_share=config.hint_share,
    )
    phases = ((flawless, config.flawless_steps), (config, config.mixture_steps))
    for phase, (noise, steps) in enumerate(phases):
        texts = pretraining_texts(None, 2 * config.seed + phase, noise, max_steps=config.max_chain_steps)
        yield from islice(_packed_batches(config, tokenizer, texts), steps)


def _drill_batches(config: PretrainConfig, tokenizer: Any) -> Iterator[Batch]:
    """One line per row; all lines have the same number of tokens. The loss is on the result alone."""
    import torch

    lines = drills(None, config.seed)
    while True:
        ids = torch.tensor(tokenizer(list(islice(lines, config.drill_lines))).input_ids)
        labels = torch.full_like(ids, IGNORED)
        labels[:, -2] = ids[:, -2]
        yield {"input_ids": ids, "labels": labels, "position_ids": torch.arange(ids.shape[1]).expand_as(ids)}


def _packed_batches(
    config: PretrainConfig, tokenizer: Any, texts: Iterator[tuple[str, str]]
) -> Iterator[Batch]:
    """Rows of `row_tokens` with several conversations each; positions start again at 0 in each of them."""
    import torch

    rows = pack(_examples(tokenizer, texts), config.row_tokens)
    while True:
        batch = [
            _row(row, config.row_tokens, tokenizer.pad_token_id)
            for row in islice(rows, config.batch_tokens // config.row_tokens)
        ]
        yield {key: torch.tensor([row[key] for row in batch]) for key in batch[0]}


def _examples(tokenizer: Any, texts: Iterator[tuple[str, str]]) -> Iterator[Example]:
    while True:
        chunk = list(islice(texts, 64))
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
            )
            for question, _ in chunk
        ]
        targets = [answer + tokenizer.eos_token + "\n" for _, answer in chunk]
        yield from zip(tokenizer(prompts).input_ids, tokenizer(targets).input_ids, strict=True)


def pack(examples: Iterator[Example], row_tokens: int, open_rows: int = 16) -> Iterator[list[Example]]:
    """Put each example into the first open row that has room; examples longer than a row are left out."""
    rows: list[list[Example]] = []
    room: list[int] = []
    for prompt, target in examples:
        length = len(prompt) + len(target)
        if length > row_tokens:
            continue
        place = next((i for i, left in enumerate(room) if left >= length), None)
        if place is None:
            if len(rows) == open_rows:
                yield rows.pop(0)
                room.pop(0)
            rows.append([])
            room.append(row_tokens)
            place = -1
        rows[place].append((prompt, target))
        room[place] -= length


def _row(examples: list[Example], row_tokens: int, pad: int) -> dict[str, list[int]]:
    ids, labels, positions = [], [], []
    for prompt, target in examples:
        ids += prompt + target
        labels += [IGNORED] * len(prompt) + target
        positions += range(len(prompt) + len(target))
    padding = row_tokens - len(ids)
    return {
        "input_ids": ids + [pad] * padding,
        "labels": labels + [IGNORED] * padding,
        "position_ids": positions + list(range(padding)),
    }


def _as_dataset(config: PretrainConfig, tokenizer: Any) -> Any:
    from torch.utils.data import IterableDataset

    class Batches(IterableDataset):
        def __iter__(self) -> Iterator[Batch]:
            return batches(config, tokenizer)

    return Batches()


def _only_item(items: list[Batch]) -> Batch:
    (batch,) = items
    return batch


def _tokens_seen(checkpoint: Path) -> int:
    from transformers import TrainerState

    return TrainerState.load_from_json(str(checkpoint / "trainer_state.json")).num_input_tokens_seen


if __name__ == "__main__":
    run_stage(pretrain, PretrainConfig)
