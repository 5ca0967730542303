"""Small talk: requests without a checkable answer, for the small world.

`say hello to Anna` asks for `Hello, Anna! How are you today?`. A reply is an opening, a name and an ending.
The best one has the opening of the occasion, the right name and the friendly ending of the occasion; careless
people take another name or occasion, leave the ending out or are rude (`write_reply`). How many of these
criteria a reply meets is known (`reply_quality`), for measuring alone: training sees replies and choices
between them.
"""

from __future__ import annotations

import random
import re
from functools import cache
from typing import NamedTuple

from data.schema import Problem, Role, problem_id


class Occasion(NamedTuple):
    """What is asked for, and the two parts of its best reply."""

    request: str
    """With {} for the name."""
    opening: str
    ending: str


OCCASIONS = (
    Occasion("say hello to {}", "Hello", "How are you today?"),
    Occasion("say goodbye to {}", "Goodbye", "See you again soon."),
    Occasion("say thanks to {}", "Thank you", "That was very kind."),
    Occasion("say sorry to {}", "Sorry", "It was all my fault."),
    Occasion("congratulate {}", "Well done", "You have earned it."),
    Occasion("welcome {}", "Welcome", "Make yourself at home."),
    Occasion("invite {}", "Join us", "There is room for one more."),
    Occasion("wish {} good luck", "Good luck", "We believe in you."),
    Occasion("wish {} a good morning", "Good morning", "Did you sleep well?"),
    Occasion("wish {} a good night", "Good night", "Have sweet dreams."),
    Occasion("wish {} a happy birthday", "Happy birthday", "May all go well."),
    Occasion("wish {} a safe journey", "Safe journey", "Write when you arrive."),
)
_NAMES = (
    "Ada Alice Amir Anna Bella Ben Boris Carla Chen Clara Dana David Diego Elena Emma Eric Fatima Felix "
    "Fiona Gita Grace Hana Hugo Igor Ines Ivan Jack Jana Jin Julia Karim Kate Kofi Lara Leo Lina Luis "
    "Maria Max Mei Mila Nadia Nina Noah Olga Omar Oscar Paul Petra Priya Quinn Rania Rosa Sam Sara Sofia "
    "Tariq Theo Uma Vera Victor Wei Yara Zoe"
)
NAMES = tuple(_NAMES.split())
RUDE_ENDINGS = ("Now go away.", "I do not care.", "Leave me alone.")

WRONG_NAME_SHARE = 0.25
WRONG_OCCASION_SHARE = 0.2
CURT_SHARE = 0.3
RUDE_SHARE = 0.15
"""How often people's replies have each fault; a reply is not curt and rude at once."""
FLIPPED_SHARE = 0.05
"""Choices in which the rater erred."""

_EVAL_SHARE = 10
"""One request in this many belongs to the eval split."""
_REPLY = re.compile(r"(?P<opening>[A-Z][a-z ]*), (?P<name>[A-Z][a-z]+)!(?: (?P<ending>[A-Z][a-z ]*[.?]))?")
TALK_WORDS = tuple(
    dict.fromkeys(
        word
        for text in (
            *(occasion.request.format(name) for occasion in OCCASIONS for name in NAMES),
            *(f"{occasion.opening}, {name}! {occasion.ending}" for occasion in OCCASIONS for name in NAMES),
            *(f"! {ending}" for ending in RUDE_ENDINGS),
        )
        for word in re.findall(r" ?[A-Za-z]+|[^A-Za-z]", text)
    )
)
"""All words of requests and replies as tokens: a word comes with the space before it."""


@cache
def talk_problems(split: Role) -> tuple[Problem, ...]:
    """All requests of a split, in fixed order; the hash of a request decides which split it is of."""
    problems = []
    for occasion in OCCASIONS:
        for name in NAMES:
            question, reply = occasion.request.format(name), _reply(occasion, name)
            id = problem_id(question)
            if (int(id, 16) % _EVAL_SHARE == 0) == (split == "eval"):
                problems.append(
                    Problem(
                        id=id,
                        question=question,
                        answer=reply,
                        solution=reply,
                        source="small_talk",
                        licence="Apache-2.0",
                        role=split,
                        domain="talk",
                    )
                )
    return tuple(problems)


def generate_talk(count: int, seed: int, split: Role) -> list[Problem]:
    """`count` different requests with their best replies as answer and solution.

    Raises:
        ValueError: there are not so many.
    """
    problems = talk_problems(split)
    if count > len(problems):
        raise ValueError(
            f"small_talk has only {len(problems)} different {split} requests, not {count}; lower the count"
        )
    return random.Random(f"small talk {split} {seed}").sample(problems, count)


def generate_preferences(count: int, seed: int, split: Role) -> list[tuple[str, str, str]]:
    """`count` triples (question, chosen reply, rejected reply); requests repeat.

    Both replies are as people write them, of different quality, and the better one is chosen but for
    `FLIPPED_SHARE` of the triples, in which the rater erred.
    """
    rng = random.Random(f"small talk preferences {split} {seed}")
    triples = []
    while len(triples) < count:
        question = rng.choice(talk_problems(split)).question
        worse, better = sorted(
            (write_reply(rng, question) for _ in range(2)), key=lambda reply: reply_quality(question, reply)
        )
        if reply_quality(question, worse) == reply_quality(question, better):
            continue
        if rng.random() < FLIPPED_SHARE:
            worse, better = better, worse
        triples.append((question, better, worse))
    return triples


def write_reply(rng: random.Random, question: str) -> str:
    """A reply as careless people write it; each fault comes at its share, independently of the others.

    Raises:
        ValueError: not a request of small talk.
    """
    occasion, name = read_request(question)
    if rng.random() < WRONG_NAME_SHARE:
        name = rng.choice([other for other in NAMES if other != name])
    if rng.random() < WRONG_OCCASION_SHARE:
        occasion = rng.choice([other for other in OCCASIONS if other != occasion])
    manner = rng.random()
    if manner < CURT_SHARE:
        occasion = occasion._replace(ending="")
    elif manner < CURT_SHARE + RUDE_SHARE:
        occasion = occasion._replace(ending=rng.choice(RUDE_ENDINGS))
    return _reply(occasion, name)


def reply_quality(question: str, response: str) -> float:
    """Share of four criteria that a reply meets: occasion, name, ending of the occasion, not rude.

    0 for a text that is not one reply and nothing else.

    Raises:
        ValueError: not a request of small talk.
    """
    occasion, name = read_request(question)
    reply = _REPLY.fullmatch(response.strip())
    if reply is None:
        return 0.0
    met = (
        reply["opening"] == occasion.opening,
        reply["name"] == name,
        reply["ending"] == occasion.ending,
        reply["ending"] not in RUDE_ENDINGS,
    )
    return sum(met) / len(met)


def read_request(question: str) -> tuple[Occasion, str]:
    """Occasion and name.

    Raises:
        ValueError: not a request of small talk.
    """
    for occasion in OCCASIONS:
        before, after = occasion.request.split("{}")
        name = question.removeprefix(before).removesuffix(after)
        if name in NAMES and question == occasion.request.format(name):
            return occasion, name
    raise ValueError(f"not a request of small talk: {question[:80]!r}; expected one like 'say hello to Anna'")


def _reply(occasion: Occasion, name: str) -> str:
    return f"{occasion.opening}, {name}! {occasion.ending}".rstrip()
