"""Which questions of a large pool are worth a comparison with a benchmark: all others share nothing.

Splitting a question into normalised words takes 50 microseconds, minutes for a pool of millions. Here numpy
cuts the raw characters of many questions at once into runs of letters and runs of digits. The same runs
stand in the normalised words (`data.decontaminate.normalised_words`), so two questions that share n words
share n runs in a row. Questions for which that might not hold (drawings, images, characters that
normalisation turns into letters or digits) are suspects too.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from data.decontaminate import DROPPED_COMMANDS, SAME_COMMANDS, BenchmarkIndex, without_drawings

if TYPE_CHECKING:
    import numpy as np

_BLOCK = 2_000  # questions at a time: their arrays fit the caches
_FACTOR = 0x9E3779B97F4A7C15
_RENAMED = {name[1:]: kind[1:] for name, kind in SAME_COMMANDS.items() if kind.startswith("\\")}
_GONE = (*DROPPED_COMMANDS, *(name[1:] for name in SAME_COMMANDS if name[1:] not in _RENAMED))


class Runs(NamedTuple):
    """The runs of letters and of digits of many questions, all in a row."""

    hashes: np.ndarray
    """uint64, one for each run; upper and lower case are the same."""
    bounds: np.ndarray
    """int64 of length questions + 1: the runs of question i are `hashes[bounds[i]:bounds[i + 1]]`."""
    odd: np.ndarray
    """Booleans, one for each question: its normalised words may have other runs."""

    sums: np.ndarray
    """uint64 of length runs + 1: sums of the first runs, each times its power of the factor."""

    def in_a_row(self, length: int, starts: np.ndarray | slice | None = None) -> np.ndarray:
        """uint64: a hash of the `length` runs from each start (of all), past the ends of questions too."""
        if starts is None:
            starts = slice(max(0, len(self.hashes) - length + 1))
        return (self.sums[length:][starts] - self.sums[starts]) * _powers(len(self.sums))[1][starts]


def suspects(index: BenchmarkIndex, questions: Sequence[str]) -> Iterator[int]:
    """Numbers, in order, of the questions for which `index.match` may find something.

    The search goes on in other threads while the caller looks at the first ones.
    """
    if index.ngram_characters:  # runs of characters may begin and end inside a word
        yield from range(len(questions))
        return
    search = _Search(index)
    starts = range(0, len(questions), _BLOCK)
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:  # numpy lets other threads run
        found = pool.map(lambda start: search(questions[start : start + _BLOCK]), starts)
        for start, numbers in zip(starts, found, strict=True):
            yield from (start + number for number in numbers)


class _Search:
    """Knows the runs in a row of which a question must have one to match a benchmark."""

    def __init__(self, index: BenchmarkIndex) -> None:
        import numpy as np

        self.length = index.ngram_words or 8
        keys: list[int] = []
        self.foreign = self.all = False
        runs = cut([" ".join(words) for words in index.words])
        owners = np.repeat(np.arange(len(index.words)), np.diff(runs.bounds))
        inside = owners[: 1 - self.length or None] == owners[self.length - 1 :]
        self.long = _Members(runs.in_a_row(self.length)[inside])
        self.parts = [_Members(runs.in_a_row(count)) for count in range(1, self.length)]
        poor: dict[tuple[int, int], list[int]] = defaultdict(list)
        for window in self._poor_windows(index):
            runs = cut([window])
            count = len(runs.hashes)
            if count >= self.length:
                continue
            if any(c.isalpha() and not c.isascii() for c in window):
                self.foreign = True
                continue
            if not count:  # signs alone
                self.all = True
                continue
            rarest = max(enumerate(re.findall("[a-z]+|[0-9]+", window)), key=lambda run: len(run[1]))[0]
            poor[rarest, count].append(int(runs.in_a_row(count)[0]))
            keys.append(int(runs.hashes[rarest]))
        self.poor = {place: _Members(np.array(hashes, np.uint64)) for place, hashes in poor.items()}
        self.keys = _Members(np.array(keys, np.uint64))

    def _poor_windows(self, index: BenchmarkIndex) -> Iterator[str]:
        """Benchmark words in a row that may have fewer runs than words."""
        for words in index.words:
            if words and (len(words) < self.length or not all(map(_HAS_RUN, words))):
                for start in range(max(1, len(words) - self.length + 1)):
                    yield " ".join(words[start : start + self.length])

    def __call__(self, questions: Sequence[str]) -> list[int]:
        """Numbers of the suspects among these questions."""
        import numpy as np

        runs = cut(questions, raw=True)
        counts = np.diff(runs.bounds)
        found = runs.odd | (counts == 0) | self.all
        places = [self.long.among(runs.in_a_row(self.length))]
        keys = self.keys.among(runs.hashes)
        for (before, count), members in self.poor.items():
            starts = keys[(keys >= before) & (keys - before + count <= len(runs.hashes))] - before
            places.append(starts[members.among(runs.in_a_row(count, starts))])
        found[np.searchsorted(runs.bounds, np.concatenate(places), side="right") - 1] = True
        for count, members in enumerate(self.parts, start=1):  # a short question inside a longer one
            short = (counts == count).nonzero()[0]
            found[short[members.among(runs.in_a_row(count, runs.bounds[short]))]] = True
        if self.foreign:
            found |= np.array([not question.isascii() for question in questions])
        return found.nonzero()[0].tolist()


_HAS_RUN = re.compile("[a-z0-9]").search


class _Members:
    """A set of hashes; a table of their upper bits answers for most others."""

    def __init__(self, hashes: np.ndarray) -> None:
        import numpy as np

        self.hashes = np.unique(np.append(hashes, np.uint64(0)))
        bits = len(self.hashes).bit_length() + 6
        self.shift = np.uint64(64 - bits)
        self.table = np.zeros(1 << bits, dtype=bool)
        self.table[self.hashes >> self.shift] = True

    def among(self, hashes: np.ndarray) -> np.ndarray:
        """Places of the members."""
        import numpy as np

        places = self.table[hashes >> self.shift].nonzero()[0]
        nearest = np.searchsorted(self.hashes, hashes[places], side="right") - 1
        return places[self.hashes[nearest] == hashes[places]]


def cut(questions: Sequence[str], raw: bool = False) -> Runs:
    """The runs of letters and of digits.

    Args:
        raw: these are not normalised words: commands that normalisation drops are left out, `1,000` is one
            run.
    """
    import numpy as np

    if raw:
        questions = [
            without_drawings(question) if "[asy]" in question else question for question in questions
        ]
    whole = "\n".join(questions)
    ends = np.cumsum(np.fromiter(map(len, questions), np.int64, len(questions)) + 1) + 1
    odd = np.zeros(len(questions), dtype=bool)
    if raw and not whole.isascii():
        odd[[n for n, q in enumerate(questions) if not q.isascii() and not all(map(_is_safe, set(q)))]] = True
    text = np.frombuffer(b"\n\n" + whole.encode("ascii", "replace") + b"\n\n\n\n\n", np.uint8)
    if raw and (commas := _thousands(text)).size:
        text, ends = np.delete(text, commas), ends - np.searchsorted(commas, ends)
    kinds = _tables().kinds[text]
    edges = (kinds[1:] != kinds[:-1]).nonzero()[0] + 1
    begins = kinds[edges] > 0
    starts, stops = edges[begins], edges[1:][begins[:-1]]
    hashes = _hashes(text, starts, stops)
    if raw:
        gone, strange = _commands(text, starts, stops, hashes)
        unsure = np.concatenate([starts[strange], _odd_places(text, kinds)])
        odd[np.searchsorted(ends, unsure)] = True
        starts, hashes = np.delete(starts, gone), np.delete(hashes, gone)
    bounds = np.concatenate([np.zeros(1, np.int64), np.searchsorted(starts, ends)])
    return Runs(hashes, bounds, odd, _sums(hashes))


@cache
def _is_safe(character: str) -> bool:
    """Whether normalisation makes no ASCII letter or digit of it, nor joins what stands around it."""
    if character.isascii():
        return True
    normalised = unicodedata.normalize("NFKC", character).casefold()
    marks = unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Nd")
    return not marks and not any(c == "π" or (c.isascii() and c.isalnum()) for c in normalised)


def _odd_places(text: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Where an image begins (`![`), or normalisation joins what stands apart: `{,}`, `,\\!`, `x^{ab}c`."""
    import numpy as np

    exclamations, commas, braces = ((text == ord(c)).nonzero()[0] for c in "!,}")
    before, behind = kinds[braces - 1], kinds[braces + 1]
    return np.concatenate(
        [
            exclamations[(text[exclamations + 1] == ord("["))],
            exclamations[(text[exclamations - 1] == ord("\\")) & (text[exclamations - 2] == ord(","))],
            commas[(text[commas - 1] == ord("{")) & (text[commas + 1] == ord("}"))],
            braces[(before > 0) & (before == behind)],
        ]
    )


def _thousands(text: np.ndarray) -> np.ndarray:
    """Places of the commas in numbers such as 1,000."""
    places = (text == ord(",")).nonzero()[0]
    digit = _tables().kinds == 2
    for offset, wanted in ((-1, True), (1, True), (2, True), (3, True), (4, False)):
        places = places[digit[text[places + offset]] == wanted]
    return places


def _hashes(text: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """A polynomial of the characters from each start to its stop."""
    sums = _sums(_tables().values[text])
    return (sums[stops] - sums[starts]) * _powers(len(text))[1][starts]


def _sums(values: np.ndarray) -> np.ndarray:
    """uint64 of length values + 1: each value times its power of the factor, summed from the left."""
    import numpy as np

    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * _powers(len(values))[0], out=sums[1:])
    return sums


def _commands(
    text: np.ndarray, starts: np.ndarray, stops: np.ndarray, hashes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(runs that normalisation drops, runs that make their question odd); commands of one meaning get one
    hash."""
    import numpy as np

    tables = _tables()
    commands = (text[starts - 1] == ord("\\")).nonzero()[0]
    commands = commands[tables.kinds[text[starts[commands]]] == 1]
    known = hashes[commands]
    gone = commands[np.isin(known, tables.gone)]
    for name, kind in tables.renamed:
        hashes[commands[known == name]] = kind
    fraction = commands[hashes[commands] == tables.fraction]
    fraction = fraction[(fraction + 1 < len(starts)) & (text[stops[fraction]] != ord("{"))]
    number = starts[fraction + 1]
    split = fraction[(tables.kinds[text[number]] == 2) & (stops[fraction + 1] - number > 1)]
    special = np.concatenate([gone, commands[np.isin(known, tables.renames)]])
    capital = special[(text[starts[special]] < 97) | (text[stops[special] - 1] < 97)]
    return gone, np.concatenate([split, capital])


class _Tables(NamedTuple):
    kinds: np.ndarray
    """uint8 for each character: 1 for letters, 2 for digits, 0 for all others."""
    values: np.ndarray
    """uint64 for each character."""
    gone: np.ndarray
    """Hashes of the commands that normalisation drops."""
    renamed: list[tuple[np.uint64, np.uint64]]
    """Hashes of a command, and of the one that it becomes."""
    renames: np.ndarray
    fraction: np.uint64


@cache
def _tables() -> _Tables:
    import numpy as np

    kinds = np.zeros(256, np.uint8)
    kinds[[*range(65, 91), *range(97, 123)]] = 1
    kinds[48:58] = 2
    values = np.random.default_rng(0).integers(1 << 63, size=256, dtype=np.uint64) * np.uint64(2) + np.uint64(
        1
    )
    values[65:91] = values[97:123]

    def code(name: str) -> np.uint64:
        letters = values[np.frombuffer(name.encode(), np.uint8)]
        return np.sum(letters * _powers(len(name))[0], dtype=np.uint64)

    renamed = [(code(name), code(kind)) for name, kind in _RENAMED.items()]
    gone = np.array([code(name) for name in _GONE], np.uint64)
    return _Tables(kinds, values, gone, renamed, np.array([a for a, _ in renamed]), code("frac"))


def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first powers of the factor and of its inverse, modulo 2^64."""
    size = max(1 << 16, 1 << count.bit_length())
    powers, inverses = _all_powers(size)
    return powers[:count], inverses[:count]


@cache
def _all_powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    tables = []
    for factor in (_FACTOR, pow(_FACTOR, -1, 1 << 64)):
        table = np.full(size, factor, dtype=np.uint64)
        table[0] = 1
        tables.append(np.cumprod(table, dtype=np.uint64))
    return tables[0], tables[1]
