"""How other people's reward models read solutions: the token ids that their own code makes of them.

Steps lose the blanks around them first. Where a format's own code makes tokens of the whole text, so is it
here; that a step ends where a token does is checked, so that no token depends on what follows the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from data.prompts import STEP_BY_STEP, refuse_special_tokens
from data.step_formats import MarkerFormat, StepFormatOptions, StepIds, StepTexts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class QwenPrmFormat(MarkerFormat):
    """Qwen2.5-Math-PRM: a chat whose answer has <extra_0> behind every step (its model card;
    search-and-learn@6f81cac:src/sal/models/reward_models.py).

    Raises:
        ValueError: <extra_0> is no token of the tokenizer.
    """

    MARKER = "<extra_0>"

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer, StepFormatOptions(step_marker=self.MARKER, system_prompt=STEP_BY_STEP))
        if len(self.marker_ids) != 1:
            raise ValueError(f"{self.MARKER} is no token of this tokenizer: give that of Qwen2.5-Math-PRM")
        self.texts = StepTexts(tokenizer, self.MARKER)


class MathShepherdFormat:
    """Math-Shepherd: "question step ки\\nstep ки", judged at each ки (model card of
    peiyi9979/math-shepherd-mistral-7b-prm).

    Raises:
        ValueError: the tokenizer does not say where its tokens are in a text, or has no token + or -.
    """

    TAG = "ки"

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer: Any = tokenizer
        self.texts = StepTexts(tokenizer, self.TAG)
        _need_offsets(tokenizer)
        self.tag_id: int = self.tokenizer.encode(self.TAG)[-1]
        """What the model's own code looks for."""
        self.answer_ids: tuple[int, int] = _answers(self.tokenizer.encode("+ -", add_special_tokens=False))
        """Tokens of a wrong and of a right step."""

    def encode(self, question: str, steps: Sequence[str]) -> StepIds:
        """See `StepFormat.encode`; also refused: a tokenizer that reads a tag as another token."""
        refuse_special_tokens(self.tokenizer, question, "question")
        parts = [f"{text} {self.TAG}" for text in self.texts(steps)]
        if not parts:
            return StepIds(ids=[], ends=[])
        lines = [f"{question} {parts[0]}", *(f"\n{part}" for part in parts[1:])]
        found = _joint_ids(self.tokenizer, lines, special=True)
        if any(found.ids[end] != self.tag_id for end in found.ends):
            raise ValueError(f"{self.TAG} is not always the same token of this tokenizer")
        return found


class RlhflowFormat:
    """RLHFlow's models: a chat in which the user gives one step a turn (the question before the first) and is
    answered by "+"; judged where that answer begins
    (RLHF-Reward-Modeling@fc39179:math-rm/prm_evaluate.py).

    Raises:
        ValueError: a chat template that does not render turn by turn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer: Any = tokenizer
        self.texts = StepTexts(tokenizer)
        _need_offsets(tokenizer)
        self.answer_ids: tuple[int, int] = _answers(
            [self.tokenizer.encode(text, add_special_tokens=False)[-1] for text in ("+", "-")]
        )
        """Tokens of a wrong and of a right step."""
        self.before, self.between, self.after = self._turns()

    def encode(self, question: str, steps: Sequence[str]) -> StepIds:
        """See `StepFormat.encode`."""
        refuse_special_tokens(self.tokenizer, question, "question")
        texts = self.texts(steps)
        if not texts:
            return StepIds(ids=[], ends=[])
        first = f"{self.before}{question.strip()} {texts[0]}{self.after}"
        turns = [f"{self.between}{text}{self.after}" for text in texts[1:]]
        found = _joint_ids(self.tokenizer, [first, *turns, "+"], special=False)
        return StepIds(ids=found.ids, ends=found.ends[:-1])

    def _turns(self) -> tuple[str, str, str]:
        """Text before the first user turn, between "+" and the next one, and behind each up to the answer."""
        one, two = "What is 1 + 2?", "It is 3."
        chat = [("user", one), ("assistant", "+"), ("user", two), ("assistant", "+"), ("user", two)]
        messages = [{"role": role, "content": content} for role, content in chat]
        opening, longer, longest = (
            self.tokenizer.apply_chat_template(messages[:n], tokenize=False, add_generation_prompt=True)
            for n in (1, 3, 5)
        )
        before, _, after = opening.partition(one)
        between = longer.removeprefix(opening).partition(two)[0]
        turn = f"{between}{two}{after}"
        if not between.startswith("+") or longest != before + one + after + turn + turn:
            raise ValueError("the chat template does not render turn by turn, as scorer: rlhflow needs it")
        return before, between, after


class SkyworkFormat:
    """Skywork-o1-Open-PRM: the question behind the start token, then each line of the solution with a line
    break, every one made tokens of by itself; a step is judged at the break behind its last line
    (skywork-o1-prm-inference@719b56b:model_utils/io_utils.py).

    Raises:
        ValueError: the tokenizer has no start token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer: Any = tokenizer
        if self.tokenizer.bos_token is None:
            raise ValueError("bos_token is missing in the tokenizer, which scorer: skywork begins with")
        self.texts = StepTexts(tokenizer)
        self.break_id = self._ids("\n")[-1]

    def encode(self, question: str, steps: Sequence[str]) -> StepIds:
        """See `StepFormat.encode`."""
        refuse_special_tokens(self.tokenizer, question, "question")
        ids = self._ids(f"{self.tokenizer.bos_token}{question}\n")
        ends = []
        for text in self.texts(steps):
            for line in text.split("\n"):
                ids += [*self._ids(line), self.break_id]
            ends.append(len(ids) - 1)
        return StepIds(ids=ids, ends=ends)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False)) if text else []


def _joint_ids(tokenizer: Any, parts: Sequence[str], *, special: bool) -> StepIds:
    """Tokens of the parts as one text, and the last token of each part.

    Raises:
        ValueError: a token has characters of two parts.
    """
    made = tokenizer("".join(parts), add_special_tokens=special, return_offsets_mapping=True)
    spans = made["offset_mapping"]
    ends, token = [], -1
    for boundary in accumulate(len(part) for part in parts):
        while token + 1 < len(spans) and spans[token + 1][1] <= boundary:
            token += 1
        follows = spans[token + 1][0] if token + 1 < len(spans) else boundary
        if spans[token][1] != boundary or follows < boundary:
            raise ValueError("a token of this tokenizer goes over the end of a step")
        ends.append(token)
    return StepIds(ids=list(made["input_ids"]), ends=ends)


def _answers(ids: Sequence[int]) -> tuple[int, int]:
    """(wrong, right) of the tokens of "+" and "-".

    Raises:
        ValueError: they are not two tokens.
    """
    if len(ids) != 2:
        raise ValueError(f"+ and - are {len(ids)} tokens of this tokenizer, not two")
    right, wrong = ids
    return wrong, right


def _need_offsets(tokenizer: Any) -> None:
    if not tokenizer.is_fast:
        raise ValueError(
            "the tokenizer does not say where its tokens are in a text: save it as tokenizer.json"
        )
