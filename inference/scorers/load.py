"""Which scorer a recipe asks for, and loading it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.did_you_mean import did_you_mean
from data.store import read_json
from inference.scorers.scorer import Scorer

ARCHITECTURES = {"Qwen2ForProcessRewardModel": "qwen_prm", "Qwen2ForPrmModel": "skywork"}
"""Scorers by what a model's config.json calls it."""
KNOWN_MODELS = {
    "math-shepherd-mistral-7b-prm": "math_shepherd",
    "Llama3.1-8B-PRM-Deepseek-Data": "rlhflow",
    "Llama3.1-8B-PRM-Mistral-Data": "rlhflow",
    "Qwen2.5-Math-PRM-7B": "qwen_prm",
    "Qwen2.5-Math-PRM-72B": "qwen_prm",
    "Skywork-o1-Open-PRM-Qwen-2.5-1.5B": "skywork",
    "Skywork-o1-Open-PRM-Qwen-2.5-7B": "skywork",
}
"""Scorers by the last part of a model's name, where its config.json does not tell."""
NAMES = ("auto", "slowthink", "qwen_prm", "math_shepherd", "rlhflow", "skywork", "pairwise", "vllm")


@dataclass(kw_only=True)
class ScorerOptions:
    """Which reward model scores steps; shared by every stage that scores."""

    scorer_model: str
    """Folder or hub id of the reward model; for scorer vllm the name that the server knows it by."""
    scorer: str = "auto"
    """auto (by the model's own files), slowthink (of stage prm), pairwise (of stage reward_model), qwen_prm,
    math_shepherd, rlhflow, skywork, vllm (an endpoint of `vllm serve --runner pooling`), or
    package.module:Class of your own: called with scorer_model and scorer_options, with a method
    score(questions, solutions)."""
    scorer_dtype: str = "auto"
    """Weights: auto (as stored), float32, bfloat16, float16."""
    scorer_batch_tokens: int = 4096
    """Tokens of one forward pass, padding included."""
    scorer_max_kv_tokens: int = 65536
    """Tokens whose keys and values are kept, so that a branch that goes on costs its new tokens only."""
    scorer_options: dict = field(default_factory=dict)
    """Of scorer vllm: base_url, tokenizer, format, and those of engine openai; or the arguments of your own
    class."""
    trust_remote_code: bool = False
    """Whether code from the model's repository may run."""

    def __post_init__(self) -> None:
        if self.scorer not in NAMES and ":" not in self.scorer:
            raise ValueError(
                f"scorer: there is no {self.scorer!r}; {did_you_mean(self.scorer, NAMES)}; a scorer of your "
                "own is package.module:Class"
            )
        if self.scorer_options and self.scorer in NAMES and self.scorer != "vllm":
            raise ValueError(
                f"scorer_options: scorer {self.scorer} has none, not {', '.join(self.scorer_options)}"
            )
        for key in ("scorer_batch_tokens", "scorer_max_kv_tokens"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: {getattr(self, key)} must be at least 1")


def load_scorer(options: ScorerOptions) -> Scorer:
    """The scorer that the options ask for.

    Raises:
        ValueError: it is not known how the model judges, the model cannot be loaded, or a bad option.
        ConnectionError: scorer vllm, whose server cannot be reached.
    """
    try:
        return _load(options)
    except ValueError as error:
        if (text := str(error)).startswith("model_name_or_path:"):
            raise ValueError(text.replace("model_name_or_path:", "scorer_model:", 1)) from error
        raise


def _load(options: ScorerOptions) -> Scorer:
    if ":" in options.scorer:
        from inference.scorers.checked import load_own

        return load_own(options.scorer, options.scorer_model, options.scorer_options)
    if options.scorer == "vllm":
        from inference.scorers.vllm_scorer import VLLMScorer

        trust = options.trust_remote_code
        return VLLMScorer(options.scorer_model, options=options.scorer_options, trust_remote_code=trust)
    name, kind = options.scorer_model, options.scorer
    return _load_step_scorer(kind if kind != "auto" else kind_of(name), options)


def _load_step_scorer(kind: str, options: ScorerOptions) -> Scorer:
    from inference.models import own_device
    from inference.scorers.foreign_models import load_foreign
    from inference.scorers.outcome_scorer import load_pairwise
    from inference.scorers.reward_model import load_reward_model
    from inference.scorers.step_scorer import StepScorer

    name, trust = options.scorer_model, options.trust_remote_code
    loading: dict[str, Any] = {"dtype": options.scorer_dtype, "trust_remote_code": trust}
    limits = {"batch_tokens": options.scorer_batch_tokens, "max_kv_tokens": options.scorer_max_kv_tokens}
    if kind == "slowthink":
        reward = load_reward_model(name, **loading)
        reward.model.to(own_device())
        return StepScorer.of(reward, **limits)
    if kind == "pairwise":
        model, step_format, head = load_pairwise(name, **loading)
    else:
        model, step_format, head = load_foreign(kind, name, **loading)
    return StepScorer(model.to(own_device()), step_format, head, name=name, **limits)


def kind_of(model: str) -> str:
    """Which scorer a model is of, by its files or its name.

    Raises:
        ValueError: neither tells.
    """
    from inference.models import locate
    from inference.scorers.reward_model import KIND, saved_options

    folder = Path(locate(model))
    if saved := saved_options(str(folder)):
        return saved.get("kind", KIND)
    config = folder / "config.json"
    architectures = (read_json(config).get("architectures") or []) if config.is_file() else []
    for architecture in architectures:
        if architecture in ARCHITECTURES:
            return ARCHITECTURES[architecture]
    if known := KNOWN_MODELS.get(Path(model).name):
        return known
    what = f"its architecture is {', '.join(architectures)}" if architectures else "it has no config.json"
    raise ValueError(
        f"scorer: auto cannot tell how {model} judges steps ({what}); say which of {', '.join(NAMES[1:])} "
        "it is"
    )
