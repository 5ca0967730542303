"""Reward models of whole solutions, trained on pairs of a right and a wrong one by stage `reward_model`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from data.step_formats import MarkerFormat, StepFormat, StepFormatOptions
from inference.models import load_tokenizer, locate
from inference.scorers.reward_model import OPTIONS_FILE, save_options, saved_options
from inference.scorers.step_scorer import Head

KIND = "pairwise"


def save_pairwise_options(folder: Path, options: StepFormatOptions) -> None:
    """Say in `folder` how its reward model reads solutions."""
    save_options(folder, options, of=StepFormatOptions, kind=KIND)


def read_pairwise_options(folder: str) -> StepFormatOptions:
    """How the reward model of a folder reads solutions.

    Raises:
        ValueError: the folder has none of stage reward_model.
    """
    given = saved_options(locate(folder))
    if given.pop("kind", None) != KIND:
        raise ValueError(
            f"{folder} has no reward model of stage reward_model ({OPTIONS_FILE} does not say so)"
        )
    return StepFormatOptions(**given)


def load_pairwise(
    folder: str, *, dtype: str = "auto", trust_remote_code: bool = False
) -> tuple[Any, StepFormat, Head]:
    """Model, format and head for `StepScorer`. The last score of a solution is its own: the sigmoid of the
    model's output there, the probability that it is better than one with output 0; earlier scores judge the
    steps so far alike.

    Raises:
        ValueError: see `read_pairwise_options`.
    """
    from transformers import AutoModelForSequenceClassification

    options = read_pairwise_options(folder)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        locate(folder), dtype=dtype, trust_remote_code=trust_remote_code
    ).eval()

    def head(inputs: dict[str, Any], columns_K: Tensor) -> Tensor:
        hidden_RKD = model.base_model(**inputs).last_hidden_state[:, columns_K]
        return model.score(hidden_RKD)[..., 0].float().sigmoid()

    return model, MarkerFormat(tokenizer, options), head
