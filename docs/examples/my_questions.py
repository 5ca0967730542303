"""A source of your own: questions from wherever you have them, here written by a few lines of code."""

import random
from collections.abc import Iterator

TOLD = (
    "A {thing} costs {price} pounds. What do {count} of them cost?",
    "Each of {count} friends buys a {thing} for {price} pounds. What do they pay together?",
)
THINGS = ("ticket", "book", "lamp", "map")


def shopping(count: int = 100, seed: int = 0) -> Iterator[dict[str, object]]:
    """`count` rows; the arguments are the `options:` of the recipe.

    A row has `question` and `answer`, and may have solution, thinking, response, domain and level. Rows that
    lack one of the two are rejected with the reason, the same question is kept once.
    """
    rng = random.Random(seed)
    for _ in range(count):
        thing, price, number = rng.choice(THINGS), rng.randint(2, 20), rng.randint(2, 9)
        yield {
            "question": rng.choice(TOLD).format(thing=thing, price=price, count=number),
            "answer": price * number,
            "domain": "shopping",
            "level": "easy" if price * number < 50 else "hard",
        }
