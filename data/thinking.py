"""The thinking formats: the one place that knows the tags around thinking and answer.

A format renders (thinking, response) into the text that a model is trained to write, and splits what a model
wrote back into the two. Formats: `think_tags` (DeepSeek-R1, Qwen3), `answer_tags` (R1-Zero template,
arXiv 2501.12948 table 1, with the line breaks of open-r1), `s1` (arXiv 2501.19393,
simplescaling/s1@77272c6:data/tokenization.py) and `s1_steps`, s1's thinking in counted steps, where
`<|im_start|>8 steps left` takes the place of `<|im_start|>think` (s1@77272c6:eval/commands.sh).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """What a completion consists of."""

    thinking: str
    response: str
    complete: bool
    """True when the text is exactly one thinking block followed by one response, as `render` writes it."""
    thinking_end: int
    """Index in the text just behind the tag that ends the thinking; 0 when the thinking never ended or
    began."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ThinkingFormat:
    """Text = start + thinking + middle + response + end."""

    name: str
    start: str
    middle: str
    end: str
    tags: tuple[str, ...]
    """Texts that thinking and response must not contain."""
    end_of_thinking: str
    """The part of `middle` at which the thinking is over."""
    inside: tuple[str, ...] = ()
    """Control tokens that the thinking may contain."""

    def render(self, thinking: str, response: str) -> str:
        """The training text.

        Raises:
            ValueError: thinking or response contains one of the format's own tags, or the thinking completes
            one that `start` begins.
        """
        for part, text in (("thinking", thinking), ("response", response)):
            for tag in self.tags:
                if tag in text:
                    raise ValueError(f"{part} contains {tag!r}, a tag of thinking format {self.name!r}")
        if self._ends_at_once(thinking):
            raise ValueError(
                f"thinking begins {self.end_of_thinking!r} behind {self.start!r}, "
                f"a tag of thinking format {self.name!r}"
            )
        return self.start + thinking + self.middle + response + self.end

    def _ends_at_once(self, thinking: str) -> bool:
        return (self.start + thinking).startswith(self.end_of_thinking)

    def parse(self, text: str) -> tuple[str, str]:
        """Inverse of `render`.

        Raises:
            ValueError: `render` cannot have written this text.
        """
        split = self.split(text)
        if not split.complete:
            raise ValueError(f"not a complete {self.name!r} text: {text[:80]!r}")
        return split.thinking, split.response

    def split(self, text: str) -> Split:
        """Thinking and response of whatever a model wrote; never raises.

        A missing or malformed start or end is tolerated (`complete` is then False). Text in which the
        thinking has begun and never ends is all thinking; text without any tag is all response.
        """
        if text.startswith(self.start) and text.endswith(self.end) and self.middle in text:
            inner = text[len(self.start) : len(text) - len(self.end)]
            thinking, found, response = inner.partition(self.middle)
            tagged = any(tag in part for tag in self.tags for part in (thinking, response))
            if found and not tagged and not self._ends_at_once(thinking):
                end = len(self.start) + len(thinking) + self.middle.index(self.end_of_thinking)
                return Split(
                    thinking=thinking,
                    response=response,
                    complete=True,
                    thinking_end=end + len(self.end_of_thinking),
                )
        return self._split_loosely(text)

    def _split_loosely(self, text: str) -> Split:
        open_tag = self.start.strip()
        position = text.find(self.end_of_thinking)
        if position >= 0:
            thinking, response = text[:position], text[position + len(self.end_of_thinking) :]
            end = position + len(self.end_of_thinking)
        elif text.lstrip().startswith(open_tag):
            thinking, response, end = text, "", 0
        else:
            thinking, response, end = "", text, 0
        thinking = thinking.strip().removeprefix(open_tag).strip()
        for tag in self.tags:
            response = response.replace(tag, "\n")  # two answers never run together into one
        return Split(thinking=thinking, response=response.strip(), complete=False, thinking_end=end)


THINK_TAGS = ThinkingFormat(
    name="think_tags",
    start="<think>\n",
    middle="\n</think>\n\n",
    end="",
    tags=("<think>", "</think>"),
    end_of_thinking="</think>",
)
ANSWER_TAGS = ThinkingFormat(
    name="answer_tags",
    start="<think>\n",
    middle="\n</think>\n<answer>\n",
    end="\n</answer>",
    tags=("<think>", "</think>", "<answer>", "</answer>"),
    end_of_thinking="</think>",
)
S1 = ThinkingFormat(
    name="s1",
    start="<|im_start|>think\n",
    middle="\n<|im_start|>answer\n",
    end="",
    tags=("<|im_start|>", "<|im_end|>"),
    end_of_thinking="<|im_start|>answer",
)
S1_STEPS = ThinkingFormat(
    name="s1_steps",
    start="<|im_start|>",
    middle=S1.middle,
    end="",
    tags=("<|im_start|>answer", "<|im_end|>"),
    end_of_thinking=S1.end_of_thinking,
    inside=("<|im_start|>",),
)
FORMATS = {f.name: f for f in (THINK_TAGS, ANSWER_TAGS, S1, S1_STEPS)}


def thinking_format(name: str) -> ThinkingFormat:
    """The format of that name.

    Raises:
        ValueError: no such format.
    """
    if name not in FORMATS:
        raise ValueError(f"thinking_format: {name!r} is not one of {', '.join(FORMATS)}")
    return FORMATS[name]
