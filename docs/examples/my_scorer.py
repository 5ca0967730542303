"""A scorer of your own: it does the sums of every step again, without any model."""

import re
from collections.abc import Sequence

SUM = re.compile(r"(\d+) ?([-+*]) ?(\d+) ?==? ?(-?\d+)")
RESULT = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


class Recalculates:
    """A step whose sums are all right is right with probability 1 - doubt, one with a wrong sum with
    probability doubt; nothing is known of a step without sums.

    Args:
        model: `scorer_model:` of the recipe.
        doubt: from `scorer_options:`, as everything behind the model.
    """

    def __init__(self, model: str, doubt: float = 0.1) -> None:
        self.name = model
        self.doubt = doubt

    def score(self, questions: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        """For each solution, one probability per step that it is right."""
        return [[self._probability(step) for step in steps] for steps in solutions]

    def _probability(self, step: str) -> float:
        sums = SUM.findall(step)
        if not sums:
            return 0.5
        right = all(RESULT[how](int(one), int(other)) == int(result) for one, how, other, result in sums)
        return 1 - self.doubt if right else self.doubt
