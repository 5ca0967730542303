"""Other people's reward models, from their own weights and without their code.

Two of them are a language model that says "+" or "-"; the other two have a head of their own, which these
classes give a Qwen2. Suffixes: R rows, K columns that are judged, H size of a hidden state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Qwen2Model, Qwen2PreTrainedModel

from data.foreign_step_formats import MathShepherdFormat, QwenPrmFormat, RlhflowFormat, SkyworkFormat
from data.step_formats import StepFormat
from inference.models import load_tokenizer, locate
from inference.scorers.reward_model import judge
from inference.scorers.step_scorer import Head


class _Qwen2WithHead(Qwen2PreTrainedModel):
    """A Qwen2 without its language model's head."""

    _keys_to_ignore_on_load_unexpected: ClassVar[Any] = [r"^lm_head\."]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = Qwen2Model(config)
        self.add_head(config.hidden_size)
        self.post_init()

    def add_head(self, size: int) -> None:
        raise NotImplementedError

    def judge(self, inputs: dict[str, Any], columns_K: Tensor) -> Tensor:
        """See `inference.scorers.step_scorer.Head`."""
        return self.probabilities(self.model(**inputs).last_hidden_state[:, columns_K])

    def probabilities(self, hidden_RKH: Tensor) -> Tensor:
        raise NotImplementedError


class QwenPrm(_Qwen2WithHead):
    """Qwen2.5-Math-PRM: two linear layers, of whose outputs the second says right."""

    def add_head(self, size: int) -> None:
        self.score = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 2))

    def probabilities(self, hidden_RKH: Tensor) -> Tensor:
        return self.score(hidden_RKH).float().softmax(-1)[..., 1]


class SkyworkPrm(_Qwen2WithHead):
    """Skywork-o1-Open-PRM: one linear layer in float32, whose output goes through a sigmoid
    (skywork-o1-prm-inference@719b56b:model_utils/prm_model.py)."""

    _keep_in_fp32_modules_strict: ClassVar[Any] = ["v_head"]

    def add_head(self, size: int) -> None:
        self.v_head = nn.ModuleDict({"summary": nn.Linear(size, 1)})

    def probabilities(self, hidden_RKH: Tensor) -> Tensor:
        return self.v_head["summary"](hidden_RKH.float()).squeeze(-1).sigmoid()


def load_foreign(
    kind: str, name: str, *, dtype: str = "auto", trust_remote_code: bool = False
) -> tuple[Any, StepFormat, Head]:
    """Model, step format and head of one of `FORMATS`.

    Raises:
        ValueError: weights are missing, or the tokenizer is another one than the format needs.
    """
    tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
    try:
        step_format = FORMATS[kind](tokenizer)
    except ValueError as error:
        raise ValueError(f"scorer_model: {name} is no model of scorer: {kind}: {error}") from error
    if not isinstance(step_format, MathShepherdFormat | RlhflowFormat):
        model = _pretrained(CLASSES[kind], kind, name, dtype=dtype)
        return model, step_format, model.judge
    arguments = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    model = _pretrained(AutoModelForCausalLM, kind, name, **arguments)
    answers = step_format.answer_ids

    def head(inputs: dict[str, Any], columns_K: Tensor) -> Tensor:
        return judge(model, inputs, columns_K, answers).softmax(-1)[..., 1]

    return model, step_format, head


def _pretrained(model_class: Any, kind: str, name: str, **arguments: Any) -> Any:
    """A model in evaluation mode, all of whose weights are those that were saved."""
    try:
        model, found = model_class.from_pretrained(locate(name), output_loading_info=True, **arguments)
    except OSError as error:
        raise ValueError(f"scorer_model: cannot load {name!r} ({error}); give a local folder") from error
    if missing := sorted(found["missing_keys"]) + sorted(str(key) for key in found["mismatched_keys"]):
        raise ValueError(
            f"scorer_model: {name} is no model of scorer: {kind}, {', '.join(missing[:3])} is missing"
        )
    return model.eval()


FORMATS: dict[str, Callable[[Any], StepFormat]] = {
    "qwen_prm": QwenPrmFormat,
    "math_shepherd": MathShepherdFormat,
    "rlhflow": RlhflowFormat,
    "skywork": SkyworkFormat,
}
"""Kinds of other people's models, and how each reads solutions."""
CLASSES = {"qwen_prm": QwenPrm, "skywork": SkyworkPrm}
