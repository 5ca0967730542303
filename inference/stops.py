"""Whether a stop text is complete in what is being generated."""

from __future__ import annotations

from typing import Any


class Stops:
    """Looks for stop texts in what is being generated.

    A stop text can only be complete with a token that holds its last character, so texts are decoded for such
    tokens alone.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._texts: list[str] = []
        self._ending: dict[tuple[str, ...], frozenset[int]] = {}

    def may_end(self, token: int, stop: tuple[str, ...]) -> bool:
        """Whether a stop text may be complete with this token."""
        if stop not in self._ending:
            ids = range(max(self.tokenizer.get_vocab().values()) + 1)
            self._texts = self._texts or self.tokenizer.batch_decode([[id, id] for id in ids])
            last = {text[-1] for text in stop}
            # a token whose bytes are no text of their own (\ufffd) may complete any character
            last.add("\ufffd")
            ending = (id for id, text in enumerate(self._texts) if last.intersection(text))
            self._ending[stop] = frozenset(ending)
        return token in self._ending[stop]

    def found(self, ids: list[int], start: int, stop: tuple[str, ...]) -> bool:
        """Whether the last token completes a stop text in what was generated from `start` on."""
        if not self.may_end(ids[-1], stop):
            return False
        window = max(len(text.encode()) for text in stop) + 4  # tokens that surely hold the longest one
        tail = str(self.tokenizer.decode(ids[max(start, len(ids) - window) :]))
        return any(text in tail for text in stop)
