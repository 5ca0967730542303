"""Reward models of this project: a language model with a head that judges steps.

Training and scoring get their logits from `judge`, and their token ids from the same step format.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data.step_formats import MarkerFormat, StepFormatOptions
from data.store import read_json, write_json
from inference.models import load_tokenizer, locate

if TYPE_CHECKING:
    from torch import Tensor

OPTIONS_FILE = "reward_model.json"
KIND = "slowthink"
"""Of the models of stage prm, in that file."""


@dataclass(kw_only=True)
class RewardModelOptions(StepFormatOptions):
    """What a reward model is; saved with its weights."""

    head: Literal["classifier", "tokens"] = "classifier"
    """classifier: a linear layer with two outputs (token classification); tokens: the language model's own
    logits of positive_token and negative_token."""
    positive_token: str = "+"
    """Head tokens: what the model says behind a right step."""
    negative_token: str = "-"
    """Head tokens: what it says behind a wrong one."""

    def answer_ids(self, tokenizer: Any) -> tuple[int, int] | None:
        """Ids of (negative, positive) token; None for a classifier.

        Raises:
            ValueError: one of them is not a single token.
        """
        if self.head == "classifier":
            return None
        ids = []
        for key in ("negative_token", "positive_token"):
            token = getattr(self, key)
            found = tokenizer(token, add_special_tokens=False)["input_ids"]
            if len(found) != 1:
                raise ValueError(f"{key}: {token!r} is {len(found)} tokens of this tokenizer, not one")
            ids += found
        return ids[0], ids[1]


@dataclass(frozen=True, kw_only=True)
class RewardModel:
    """A loaded reward model."""

    name: str
    model: Any
    tokenizer: Any
    options: RewardModelOptions

    @property
    def step_format(self) -> MarkerFormat:
        return MarkerFormat(self.tokenizer, self.options)


def load_weights(
    model: str, options: RewardModelOptions, *, trust_remote_code: bool = False, **arguments: Any
) -> Any:
    """The network of a reward model, from its own folder or, to be trained, from a language model; no
    dropout.

    Raises:
        ValueError: see `inference.models.locate`.
    """
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

    arguments = {"trust_remote_code": trust_remote_code, **arguments}
    if options.head == "tokens":
        return AutoModelForCausalLM.from_pretrained(locate(model), **arguments)
    made = AutoModelForTokenClassification.from_pretrained(
        locate(model), num_labels=2, id2label={0: "wrong", 1: "right"}, **arguments
    )
    made.dropout.p = 0.0
    return made


def load_reward_model(folder: str, *, dtype: str = "auto", trust_remote_code: bool = False) -> RewardModel:
    """A reward model that stage `prm` has trained, in evaluation mode.

    Raises:
        ValueError: the folder holds none.
    """
    options = read_options(folder)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    model = load_weights(folder, options, trust_remote_code=trust_remote_code, dtype=dtype).eval()
    return RewardModel(name=folder, model=model, tokenizer=tokenizer, options=options)


def read_options(folder: str) -> RewardModelOptions:
    """What a folder says of its reward model.

    Raises:
        ValueError: it says nothing, or has one of another stage.
    """
    given = saved_options(locate(folder))
    if given.pop("kind", KIND) != KIND or not given:
        raise ValueError(f"{folder} is no reward model of stage prm ({OPTIONS_FILE} is missing)")
    return RewardModelOptions(**given)


def saved_options(folder: str) -> dict[str, Any]:
    """What a folder says of its reward model, of whatever stage; empty where it says nothing."""
    path = Path(folder) / OPTIONS_FILE
    return read_json(path) if path.is_file() else {}


def save_options(
    folder: Path, options: StepFormatOptions, *, of: type = RewardModelOptions, kind: str = KIND
) -> None:
    """Say in `folder` what its reward model is: the fields of dataclass `of` that `options` has."""
    write_json(
        folder / OPTIONS_FILE,
        {"kind": kind, **{each.name: getattr(options, each.name) for each in fields(of)}},
    )


def judge(model: Any, inputs: dict[str, Any], columns_K: Tensor, answers: tuple[int, int] | None) -> Tensor:
    """Logits (B, K, 2) of wrong and right at the given columns of a batch, in float32.

    Args:
        inputs: what the model's forward takes; input_ids has shape (B, T).
        columns_K: columns of the batch; every row is judged at each of them.
        answers: see `RewardModelOptions.answer_ids`.
    """
    if answers is None:
        return model(**inputs).logits[:, columns_K].float()
    return model(**inputs, logits_to_keep=columns_K).logits[..., list(answers)].float()
