"""Stage `prm` on a small real model, in this process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification
from trl import ModelConfig

from data.store import read_rows
from inference.models import load_tokenizer
from inference.scorers.reward_model import judge, load_reward_model
from inference.scorers.step_scorer import StepScorer
from tests.training.prm_runs import arguments, losses, run, signs, write_solutions
from training.checkpoints import resume_or_train
from training.prm import PrmConfig, make_rows, make_trainer
from training.prm_adapter import merge_adapter
from training.prm_arguments import check_arguments
from training.prm_trainer import LengthGrouped
from training.step_rows import Rows, collate

HEADS = ("classifier", "tokens")
LORA = {"use_peft": True, "lora_r": 4, "lora_target_modules": "all-linear"}


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    return write_solutions(tmp_path / "labelled", signs())


def trained(
    model: Path, folder: Path, head: Any, loading: dict[str, Any] | None = None, **options: Any
) -> tuple[Any, PrmConfig]:
    """The trainer of a finished run, as the stage makes it, whose model is saved in `folder`."""
    config = PrmConfig(dataset=["-"], head=head, step_separator="\n")
    tokenizer: Any = load_tokenizer(str(model))
    rows = make_rows(config, tokenizer, signs(32)).rows
    loaded = ModelConfig(model_name_or_path=str(model), **(loading or {}))
    args = arguments(folder, learning_rate=1e-2, **options)
    trainer = make_trainer(config, args, loaded, tokenizer, rows, [], (1.0, 1.0))
    resume_or_train(trainer, folder)
    return trainer, config


def logits_of(network: Any, config: PrmConfig, tokenizer: Any) -> torch.Tensor:
    """Logits of four solutions at all judged columns, in one batch."""
    rows = Rows(make_rows(config, tokenizer, signs(4)).rows)
    batch = collate([rows[i] for i in range(4)])
    columns = batch.pop("columns")
    del batch["labels"]
    with torch.no_grad():
        return judge(network.eval(), batch, columns, config.answer_ids(tokenizer))


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_a_separable_task_is_learned(tiny_model: Path, tmp_path: Path, dataset: str, head: str) -> None:
    stage = {"head": head, "held_out_fraction": 0.2}
    options = {"max_steps": 70, "per_device_train_batch_size": 16, "save_strategy": "no"}
    metrics = run(tiny_model, tmp_path / "out", dataset, stage, **options)
    assert (metrics["solutions"], metrics["held_out"], metrics["labels"]) == (204, 52, 816)
    assert 0.3 < metrics["step_auc_before"] < 0.7
    assert metrics["loss_before"] == pytest.approx(math.log(2), abs=0.05)
    assert metrics["step_auc"] > 0.95
    assert metrics["last_auc"] > 0.95
    assert metrics["loss"] < 0.4


@pytest.mark.slow
def test_an_outcome_reward_model_judges_the_last_step(tiny_model: Path, tmp_path: Path, dataset: str) -> None:
    options = {"max_steps": 3, "train_sampling_strategy": "group_by_length"}
    metrics = run(tiny_model, tmp_path / "out", dataset, {"mode": "orm", "held_out_fraction": 0.2}, **options)
    assert metrics["labels"] == metrics["solutions"] == 204
    assert metrics["step_auc"] == metrics["last_auc"]


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_scores_of_the_saved_folder_are_those_of_training(
    tiny_model: Path, tmp_path: Path, head: str
) -> None:
    """Full, batched, padded on the left, and by the scorer."""
    trainer, config = trained(tiny_model, tmp_path, head)
    from inference.scorers.reward_model import save_options

    save_options(tmp_path, config)
    loaded = load_reward_model(str(tmp_path))
    tokenizer, network = loaded.tokenizer, trainer.model
    assert torch.equal(logits_of(loaded.model, config, tokenizer), logits_of(network, config, tokenizer)), (
        "the same weights"
    )
    solutions = signs(4)
    for k, steps in enumerate((1, 4, 2, 3)):
        solutions[k] = replace(solutions[k], steps=solutions[k].steps[:steps], labels=(1.0,) * steps)
    rows = make_rows(config, tokenizer, solutions).rows
    batch = collate([Rows(rows)[i] for i in range(4)])
    places = {column: place for place, column in enumerate(batch["columns"].tolist())}
    answers = config.answer_ids(tokenizer)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        seen = judge(network.eval(), inputs, batch["columns"], answers)
        found = StepScorer.of(loaded).score(
            [s.problem.question for s in solutions], [s.steps for s in solutions]
        )
        for i, row in enumerate(rows):
            expected = seen[i, [places[end] for end in row.ends]]
            alone = judge(
                network, {"input_ids": torch.tensor([list(row.ids)])}, torch.tensor(row.ends), answers
            )
            assert torch.allclose(alone[0], expected, atol=1e-5)
            assert torch.allclose(left_padded(network, row, 7, answers), expected, atol=1e-5)
            assert found[i] == pytest.approx(expected.softmax(-1)[:, 1].tolist(), abs=1e-5)
    assert seen.std() > 0.01


def left_padded(network: Any, row: Any, pads: int, answers: tuple[int, int] | None) -> torch.Tensor:
    ids = torch.tensor([[0] * pads + list(row.ids)])
    mask = (torch.arange(ids.shape[1]) >= pads).long().unsqueeze(0)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return judge(network, inputs, torch.tensor(row.ends) + pads, answers)[0]


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_adapters_are_put_into_the_saved_weights(tiny_model: Path, tmp_path: Path, head: str) -> None:
    trainer, config = trained(tiny_model, tmp_path, head, LORA, gradient_checkpointing=True)
    tokenizer = trainer.processing_class
    expected = logits_of(trainer.model, config, tokenizer)
    auto: Any = AutoModelForTokenClassification if head == "classifier" else AutoModelForCausalLM
    merge_adapter(lambda: auto.from_pretrained(tiny_model, num_labels=2), tmp_path)
    plain = auto.from_pretrained(tmp_path)
    assert torch.allclose(logits_of(plain, config, tokenizer), expected, atol=1e-5)
    assert not list(tmp_path.glob("adapter_*"))
    names = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
    assert any("lora_B" in name for name in names)
    assert all(p.abs().max() > 0 for n, p in trainer.model.named_parameters() if n in names and "lora_B" in n)
    assert any("score" in name for name in names) == (head == "classifier")
    whole = auto.from_pretrained(tiny_model)
    assert not torch.equal(plain.model.layers[1].mlp.up_proj.weight, whole.model.layers[1].mlp.up_proj.weight)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "loading", "options"),
    [
        ({}, {}, {"train_sampling_strategy": "group_by_length", "num_train_epochs": 2, "max_steps": -1}),
        ({"muon_learning_rate": 0.02, "head": "tokens"}, {}, {}),
        ({}, LORA, {"gradient_accumulation_steps": 2}),
    ],
    ids=["length", "muon", "lora"],
)
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tiny_model: Path, tmp_path: Path, stage: Any, loading: Any, options: Any
) -> None:
    dataset = write_solutions(tmp_path / "labelled", signs(16))
    stage = {**stage, "held_out_fraction": 0.25}
    found = {}
    for name in ("whole", "parts"):
        folder = tmp_path / name
        found[name] = run(tiny_model, folder, dataset, stage, loading, **options)
    last = max((tmp_path / "parts").glob("checkpoint-*"))
    (last / ".complete").unlink()
    for weights in last.glob("*model.safetensors"):
        weights.write_bytes(b"half")
    found["parts"] = run(tiny_model, tmp_path / "parts", dataset, stage, loading, **options)
    assert [step for step, _ in losses(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6]
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    for metrics in found.values():
        del metrics["train_seconds"]
    assert found["parts"] == found["whole"]
    one, two = (load_reward_model(str(tmp_path / name)).model.state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_muon_moves_the_matrices_of_the_layers(tiny_model: Path, tmp_path: Path) -> None:
    config = PrmConfig(dataset=["-"], step_separator="\n", muon_learning_rate=0.1)
    tokenizer: Any = load_tokenizer(str(tiny_model))
    rows = make_rows(config, tokenizer, signs(8)).rows
    args = arguments(tmp_path, max_steps=1, learning_rate=1e-12, save_strategy="no")
    loaded = ModelConfig(model_name_or_path=str(tiny_model))
    trainer: Any = make_trainer(config, args, loaded, tokenizer, rows, [], (1.0, 1.0))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {
        name for name, p in trainer.model.named_parameters() if not torch.allclose(p, before[name], atol=1e-6)
    }
    assert moved == {name for name, p in before.items() if p.ndim == 2 and ".layers." in name}


@pytest.mark.slow
def test_unusable_solutions_are_counted_and_kept(tiny_model: Path, tmp_path: Path) -> None:
    solutions = signs(16)
    solutions[3] = replace(solutions[3], steps=("a", " ", "b", "c"))
    dataset = write_solutions(tmp_path / "labelled", solutions)
    metrics = run(tiny_model, tmp_path / "out", dataset, {"max_rejected_fraction": 0.1}, max_steps=1)
    assert (metrics["rejected"], metrics["solutions"] + metrics["held_out"]) == (1, 15)
    [row] = read_rows(tmp_path / "out" / "rejected" / "rows.parquet", "rejected")
    assert (row["rule"], row["id"]) == ("blank_step", solutions[3].problem.id)


@pytest.mark.slow
def test_mistakes_are_refused_before_training(tiny_model: Path, tmp_path: Path) -> None:
    def refuses(message: str, solutions: Sequence[Any], stage: Any = None, **options: Any) -> None:
        dataset = write_solutions(tmp_path / "labelled", solutions)
        with pytest.raises(ValueError, match=message):
            run(tiny_model, tmp_path / "out", dataset, stage, **options)

    refuses("holds rows with role eval", signs(8, role="eval"))
    refuses("holds no labelled solution", [])
    refuses("all 24 labels are right", [replace(s, labels=(1.0,) * 4) for s in signs(8)])
    refuses(
        "dataset: 1 of 8 cannot be used .1 labels_mismatch", [replace(signs(1)[0], labels=()), *signs(8)[1:]]
    )
    refuses("positive_token: 'yes no' is", signs(8), {"head": "tokens", "positive_token": "yes no"})
    long = [replace(s, steps=(*s.steps[:3], "a b " * 1500)) for s in signs(8)]
    refuses("max_length: rows of .* longer than the model's 2048", long, {"max_length": 9999})
    refuses("label_smoothing_factor", signs(8), label_smoothing_factor=0.1)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    with pytest.raises(ValueError, match="does not exist"):
        run(tiny_model, tmp_path / "out", str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor: smooth the labels in the dataset"),
        ({"prediction_loss_only": True}, "prediction_loss_only: .* drop it"),
        ({"include_for_metrics": ["inputs"]}, "include_for_metrics: .* drop it"),
        ({"eval_on_start": True, "eval_strategy": "epoch"}, "eval_on_start: the untrained model is measured"),
        ({"train_sampling_strategy": "batch_rebalance"}, "train_sampling_strategy: use group_by_length"),
        ({"eval_strategy": "epoch", "held_out": False}, "eval_strategy: there is nothing to measure"),
        ({"muon": True, "weight_decay": 0.1}, "muon_learning_rate: weight_decay is not used"),
        ({"muon": True, "optim": "sgd"}, "muon_learning_rate: optim is not used"),
        ({"muon": True, "use_peft": True}, "muon_learning_rate: adapters are trained by AdamW"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    given = {"held_out": options.pop("held_out", True), "muon": options.pop("muon", False)}
    model = ModelConfig(use_peft=options.pop("use_peft", False))
    with pytest.raises(ValueError, match=message):
        check_arguments(arguments(tmp_path, **options), model, **given)


def test_weights_that_are_too_coarse_to_train_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cases: tuple[tuple[dict[str, Any], bool], ...] = (
        ({}, False),
        ({"dtype": "bfloat16"}, True),
        ({"dtype": "bfloat16", **LORA}, False),
    )
    for model, told in cases:
        caplog.clear()
        check_arguments(arguments(tmp_path), ModelConfig(**model), held_out=True, muon=False)
        assert ("a step of less than 1/256" in caplog.text) == told


def test_fields_are_checked() -> None:
    for options, message in (
        ({"dataset": []}, "dataset: name at least one"),
        ({"held_out_fraction": 1.0}, "held_out_fraction: 1.0 must be in"),
        ({"max_length": 0}, "max_length: 0 must be"),
        ({"mode": "orm", "soft_labels": True}, "mode: orm has no step labels"),
        ({"step_separator": ""}, "step_separator: is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            PrmConfig(**{"dataset": ["x"], **options})


def test_rows_of_similar_length_stand_together_in_an_order_of_seed_and_epoch() -> None:
    lengths = torch.randint(10, 1000, (2000,), generator=torch.Generator().manual_seed(0)).tolist()
    sampler = LengthGrouped(lengths, 8, seed=1)
    first = list(sampler)
    assert first == list(LengthGrouped(lengths, 8, seed=1))
    assert sorted(first) == list(range(2000))
    sampler.set_epoch(1)
    assert list(sampler) != first

    def padded(order: list[int]) -> int:
        return sum(8 * max(lengths[j] for j in order[i : i + 8]) for i in range(0, 2000, 8))

    assert padded(first) < 1.05 * sum(lengths)
    assert padded(list(range(2000))) > 1.5 * sum(lengths)
