"""Which questions a GRPO run draws next: seeded, resumable, and with a curriculum on observed pass rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from data.prompts import Prompt
from data.schema import Problem

Curriculum = Literal["uniform", "pass_rate"]

HALF_LIFE_EPOCHS = 1.0
"""What was seen of a question counts half after so many groups per question: the policy has moved on."""
PRIOR = 1.0
"""Completions with the mean pass rate that every question is taken to have had."""
LEAST_WEIGHT = 0.02
"""Weight of a question that never gave a mixed group, against one that always does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A problem as the policy and the rewards see it."""

    problem: Problem
    prompt: Prompt
    columns: dict[str, Any]
    """What rewards are called with: `prompt` and the columns of the dataset."""


class Questions:
    """The questions of a run, and the order in which they are drawn.

    uniform: every question once, in a shuffled order, then again in another one. The first order is that of
    `trl.GRPOTrainer` with the same seed.
    pass_rate: questions are drawn by the probability that a group on them is mixed, 1 - p^G - (1 - p)^G. The
    pass rate p has a beta distribution: what was observed, older groups counting less, after a prior with
    the mean of all questions.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        *,
        curriculum: Curriculum = "uniform",
        num_generations: int = 2,
        seed: int = 0,
    ) -> None:
        self.all = questions
        self.curriculum = curriculum
        self.num_generations = num_generations
        self.seed = seed
        self.drawn = 0
        """Groups drawn so far."""
        self.right = np.zeros(len(questions))
        self.seen = np.zeros(len(questions))
        """Completions that were right, and all of them, with old ones counting less."""
        self.last = np.zeros(len(questions), np.int64)
        """`drawn` when a question was last observed."""
        self._generator = torch.Generator().manual_seed(seed)
        self._order: list[int] = []
        self._epochs = 0

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, index: int) -> Question:
        return self.all[index]

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(question.prompt.ids) for question in self.all)

    def draw(self, count: int) -> list[int]:
        """Indices of the next `count` questions, at most as many as there are, all different."""
        assert count <= len(self.all)
        chosen = self._next(count) if self.curriculum == "uniform" else self._weighted(count)
        self.drawn += count
        return chosen

    def _next(self, count: int) -> list[int]:
        """The next ones of the shuffled order; what is left of an order that is too short comes first."""
        start = self.drawn - (self._epochs - 1) * len(self.all)
        chosen = self._order[start : start + count]
        if len(chosen) < count:
            self._shuffle()
            first = [index for index in self._order if index not in set(chosen)][: count - len(chosen)]
            # a question of both orders has had its turn; those that stand in for it come first
            taken = set(first)
            self._order = [*first, *(index for index in self._order if index not in taken)]
            chosen = chosen + first
        return chosen

    def _shuffle(self) -> None:
        self._order = torch.randperm(len(self.all), generator=self._generator).tolist()
        self._epochs += 1

    def _weighted(self, count: int) -> list[int]:
        """Without replacement, by exponential clocks: the `count` smallest of -log(u) / weight."""
        random = np.random.default_rng([self.seed, self.drawn])
        clocks = random.exponential(size=len(self.all)) / self.weights()
        return [int(index) for index in np.argsort(clocks)[:count]]

    def weights(self) -> np.ndarray:
        """Of each question, for the pass_rate curriculum; positive."""
        from scipy.special import betaln

        a, b = self._beta()
        size, norm = self.num_generations, betaln(a, b)
        mixed = 1 - np.exp(betaln(a + size, b) - norm) - np.exp(betaln(a, b + size) - norm)
        return np.maximum(mixed, LEAST_WEIGHT)

    def pass_rates(self) -> np.ndarray:
        """Expected pass rate of each question, in (0, 1)."""
        a, b = self._beta()
        return a / (a + b)

    def _beta(self) -> tuple[np.ndarray, np.ndarray]:
        """Parameters of the distribution of each question's pass rate."""
        kept = self._kept(self.last)
        right, seen = self.right * kept, self.seen * kept
        mean = (right.sum() + 1) / (seen.sum() + 2)
        return right + PRIOR * mean, seen - right + PRIOR * (1 - mean)

    def observe(self, index: int, right: int, completions: int) -> None:
        """Take in that `right` of `completions` on a question were right."""
        kept = self._kept(self.last[index])
        self.right[index] = self.right[index] * kept + right
        self.seen[index] = self.seen[index] * kept + completions
        self.last[index] = self.drawn

    def _kept(self, last: Any) -> Any:
        """How much counts of what was seen when `last` groups were drawn."""
        return 0.5 ** ((self.drawn - last) / (HALF_LIFE_EPOCHS * len(self.all)))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; JSON."""
        return {
            "ids": [question.problem.id for question in self.all],
            "drawn": self.drawn,
            "right": self.right.tolist(),
            "seen": self.seen.tolist(),
            "last": self.last.tolist(),
            "order": self._order,
            "epochs": self._epochs,
            "generator": self._generator.get_state().tolist(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            ValueError: it is of other questions.
        """
        if state["ids"] != [question.problem.id for question in self.all]:
            raise ValueError("problems: the checkpoint was made with other questions; start a new run")
        self.drawn, self._epochs, self._order = state["drawn"], state["epochs"], state["order"]
        self.right, self.seen = np.array(state["right"]), np.array(state["seen"])
        self.last = np.array(state["last"], np.int64)
        self._generator.set_state(torch.tensor(state["generator"], dtype=torch.uint8))
