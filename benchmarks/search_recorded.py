"""An engine and a scorer whose answers are recorded, so that a search can be repeated without them, for
`benchmarks.search`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from inference.engine import Follow, Generation, Request


class Recorded:
    """An engine or scorer with all that it answers; `replay` makes it answer the same at once."""

    def __init__(self, of: Any) -> None:
        self.of = of
        self.answers: list[Any] = []
        """Of each call: pieces for `follow` with the batches between them, or (scores, forwarded tokens)."""
        self.place: int | None = None
        """The next answer of a replay."""
        self.inputs: list[tuple[Sequence[str], Sequence[Sequence[str]]]] = []
        """Of each call of the scorer."""
        self.forwarded = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.of, name)

    def replay(self) -> None:
        self.place = self.forwarded = 0

    @property
    def forwarded_tokens(self) -> int:
        return self.of.forwarded_tokens if self.place is None else self.forwarded

    def score(self, questions: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        if self.place is None:
            before, scores = self.of.forwarded_tokens, self.of.score(questions, solutions)
            self.answers.append((scores, self.of.forwarded_tokens - before))
            self.inputs.append((questions, solutions))
            return scores
        scores, forwarded = self.answers[self.place]
        self.place += 1
        self.forwarded += forwarded
        return scores

    def generate(self, requests: Sequence[Request], follow: Follow) -> Iterator[list[tuple[int, Generation]]]:
        if self.place is None:
            yield from self._recorded(requests, follow)
            return
        answers = self.answers[self.place]
        self.place += 1
        for answer in answers:
            if isinstance(answer, list):
                yield answer
            else:
                follow(*answer)

    def _recorded(
        self, requests: Sequence[Request], follow: Follow
    ) -> Iterator[list[tuple[int, Generation]]]:
        answers: list[Any] = []
        self.answers.append(answers)

        def recorded(index: int, piece: Generation) -> Request | None:
            answers.append((index, piece))
            return follow(index, piece)

        for batch in self.of.generate(requests, recorded):
            answers.append(batch)
            yield batch
