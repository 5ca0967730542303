"""Reward `reward_model` of stage grpo: what a trained reward model says of a completion.

For questions that no rule can judge, as in the last stage of DeepSeek-R1 (arXiv 2501.12948, section 2.3.4):
helpfulness is judged by the response alone, harmlessness by all that was written.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from data.steps import steps_of
from data.thinking import thinking_format
from inference.models import cached_folder
from inference.scorers.load import ScorerOptions, load_scorer
from inference.scorers.scorer import Aggregation, Scorer, aggregate
from rewards.registry import Reward
from rewards.texts import Turn, splits, written_text

logger = logging.getLogger(__name__)

_SCORER_KEYS = re.compile(r"(?<![\w/.-])scorer_(?=(?:model|dtype|batch_tokens|max_kv_tokens|options)\b)")
"""What the keys of `ScorerOptions` begin with and those of the reward do not."""


@dataclass(frozen=True, kw_only=True)
class ModelReward:
    """Score of a completion by a reward model, in [0, 1].

    Of a model of stage `reward_model` it is the sigmoid of its output, the probability that the completion is
    better than one with output 0; bounded, so that its weight means the same beside rules. (Train it with
    `center_rewards_coefficient: 0.01`, which keeps outputs where the sigmoid is not flat.) Of a process
    reward model it is made of the scores of the steps by `aggregation`.

    0 without asking where there is nothing to judge, as when the thinking never ended. None where the model
    cannot read the text (too long for it, a control token inside): counted as metric and logged with the
    reasons. The model is loaded once in a process, onto its device, and is never trained.
    """

    tells_right: ClassVar[bool] = False  # a high score is no verdict on an answer
    is_learned: ClassVar[bool] = True

    model: str
    """Folder (run:14_reward_model) or hub id of the reward model."""
    part: Literal["response", "all"] = "response"
    """response: what follows the thinking (helpfulness); all: thinking and response (harmlessness)."""
    scorer: str = "auto"
    """auto (by the model's own files), or a name as in `scorer` of stage search: pairwise, slowthink,
    qwen_prm, skywork, vllm, package.module:Class of your own, ..."""
    aggregation: Aggregation = "last"
    """last, min, prod or mean of the scores of the steps; a model of whole solutions needs last."""
    step_separator: str = ""
    """What a completion is split at into steps; empty: as the model was trained, or a blank line."""
    dtype: str = "auto"
    """Weights: auto (as stored), float32, bfloat16, float16."""
    batch_tokens: int = 4096
    """Tokens of one forward pass, padding included."""
    max_kv_tokens: int = 65536
    """Tokens whose keys and values are kept during a call, so that a question is read once for its group."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of scorer vllm: base_url, tokenizer, format, and those of engine openai; or the arguments of your own
    class."""
    trust_remote_code: bool = False
    """Whether code from the model's repository may run."""
    question: str = "question"
    """Column with the question."""
    thinking_format: str = "think_tags"
    """think_tags, answer_tags, s1 or s1_steps: how thinking and response are told apart."""
    thinking_prefilled: bool = False
    """Whether the chat template has already written the thinking's opening tag."""

    def __post_init__(self) -> None:
        thinking_format(self.thinking_format)
        with _own_keys():
            self._scorer_options()

    def __call__(self, *, completions: Sequence[Turn], **columns: Any) -> list[float | None]:
        """One score per completion, in their order."""
        if self.question not in columns:
            present = ", ".join(sorted(columns))
            raise ValueError(f"question: the dataset has no column {self.question!r}; there are {present}")
        scorer = self.load()
        steps = self._steps(completions)
        questions = [str(question) for question in columns[self.question]]
        asked = [row for row, of_row in enumerate(steps) if of_row]
        with _own_keys():
            found, refused = score_all(
                scorer, [questions[row] for row in asked], [steps[row] for row in asked]
            )
        if callable(forget := getattr(scorer, "forget", None)):
            forget()  # the memory is the policy's until the next call
        values: list[float | None] = [0.0] * len(completions)
        for row, scores in zip(asked, found, strict=True):
            values[row] = None if scores is None else aggregate(scores, self.aggregation)
        _tell(refused, len(completions), getattr(self, "__name__", "reward_model"), columns.get("log_metric"))
        return values

    def load(self) -> Scorer:
        """The scorer, which all rewards of this process with the same model share.

        Raises:
            ValueError: see `inference.scorers.load.load_scorer`.
            ConnectionError: likewise.
        """
        with _own_keys():
            return _scorer(json.dumps(asdict(self._scorer_options()), sort_keys=True))

    def _scorer_options(self) -> ScorerOptions:
        return ScorerOptions(
            scorer_model=self.model,
            scorer=self.scorer,
            scorer_dtype=self.dtype,
            scorer_batch_tokens=self.batch_tokens,
            scorer_max_kv_tokens=self.max_kv_tokens,
            scorer_options=self.options,
            trust_remote_code=self.trust_remote_code,
        )

    def _steps(self, completions: Sequence[Turn]) -> list[list[str]]:
        """What the model reads of each completion; empty where there is nothing to judge."""
        form = thinking_format(self.thinking_format)
        if self.part == "response":
            parts = splits(completions, self.thinking_format, self.thinking_prefilled)
            texts = [part.response for part in parts]
        else:
            texts = [written_text(completion, form, self.thinking_prefilled) for completion in completions]
        separator = self.step_separator or trained_separator(self.options.get("tokenizer", self.model))
        return [[step.text for step in steps_of(text, form, separator)] for text in texts]


LEARNED_REWARDS: dict[str, type] = {"reward_model": ModelReward}
"""Rewards that load a model, by the name in a recipe: stage grpo has them beside those of the registry."""


def load_models(rewards: Sequence[Reward]) -> None:
    """Load the reward models of a run, before its policy, so that a wrong one fails at once.

    Raises:
        ValueError: names the reward.
    """
    for reward in rewards:
        if isinstance(reward.function, ModelReward):
            try:
                reward.function.load()
            except ValueError as error:
                raise ValueError(f"rewards: {reward.name}: {error}") from error


def score_all(
    scorer: Scorer, questions: Sequence[str], solutions: Sequence[Sequence[str]]
) -> tuple[list[list[float] | None], list[str]]:
    """Scores of the steps of each solution, None where the scorer refuses it; and the reasons of those.

    Raises:
        ValueError: the scorer refuses anything else than one solution (see `Scorer.score`).
    """
    scores: list[list[float] | None] = [None] * len(questions)
    rows, reasons = list(range(len(questions))), []
    while rows:
        try:
            found = scorer.score([questions[row] for row in rows], [solutions[row] for row in rows])
        except ValueError as error:
            refused = re.match(r"solution (\d+): ", str(error))
            if refused is None:
                raise
            reasons.append(_SCORER_KEYS.sub("", str(error)[refused.end() :]))
            del rows[int(refused[1])]
            continue
        for row, of_row in zip(rows, found, strict=True):
            scores[row] = of_row
        break
    return scores, reasons


def trained_separator(model: str) -> str:
    """What the solutions were split at that a reward model was trained on; a blank line where it says
    nothing."""
    from inference.scorers.reward_model import saved_options

    folder = model if Path(model).is_dir() else str(cached_folder(model))
    return saved_options(folder).get("step_separator", "\n\n")


@cache
def _scorer(options: str) -> Scorer:
    with _whole_weights():
        return load_scorer(ScorerOptions(**json.loads(options)))


@contextmanager
def _whole_weights() -> Iterator[None]:
    """Models that are loaded within it are whole in every process, though the policy's weights may be split
    by DeepSpeed ZeRO-3."""
    from transformers.integrations import deepspeed

    held = deepspeed._hf_deepspeed_config_weak_ref
    config = held() if held is not None else None
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            deepspeed.set_hf_deepspeed_config(config)


@contextmanager
def _own_keys() -> Iterator[None]:
    """Errors about the keys of `ScorerOptions` name those of the reward."""
    try:
        yield
    except ValueError as error:
        raise ValueError(_SCORER_KEYS.sub("", str(error))) from error


def _tell(
    refused: Sequence[str], count: int, name: str, log_metric: Callable[[str, float], None] | None
) -> None:
    """Log how many completions the model could not read, and why."""
    if log_metric is not None and count:
        log_metric(f"{name}/refused", len(refused) / count)
    if refused:
        why = "; ".join(f"{times} x {reason}" for reason, times in Counter(refused).most_common(3))
        logger.warning("%s: %d of %d completions could not be read: %s", name, len(refused), count, why)
