"""The words of many questions as numbers, so that numpy compares pools of any size.

Words are those of `data.decontaminate.normalised_words`, each hashed to 64 bits; so is a run of words.
Hashes only find what is worth a look: whoever drops a question compares its words.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from data.decontaminate import normalised_words

if TYPE_CHECKING:
    import numpy as np

_CHUNK = 2_000  # questions that a process gets at a time
_MANY = 20_000  # questions from which further processes pay
_BLOCK = 50_000  # questions that numpy handles at a time, which bounds its memory
_FACTOR = 0x9E3779B97F4A7C15
_DECISIVE = re.compile(
    r".*[\d+*/=<>≠±∠△!°-]|(?:[b-hj-z]|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|hundred|thousand|half"
    r"|third|quarter|twice|thrice|double|triple|first|second|last|not|no|non|even|odd|sum|difference|product|ratio|more"
    r"|less|fewer|least|most|smallest|largest|greatest|minimum|maximum|min|max|lowest|highest|shortest|longest"
    r"|positive|negative|nonnegative|with|without|before|after|sin|cos|tan|cot|sec|csc|log|ln|exp|gcd|lcm|mean|median"
    r"|mode|area|perimeter|volume|increased?|decreased?|increasing|decreasing|percent|prime|integers?|real)$",
    re.DOTALL,
)


class Words(NamedTuple):
    """The normalised words of many questions; the same numbers on every machine."""

    hashes: np.ndarray
    """uint64, one for each word, all questions in a row; odd where the word is decisive."""
    starts: np.ndarray
    """int64 of shape (questions + 1,): the words of question i are `hashes[starts[i]:starts[i + 1]]`."""

    def runs(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """(hash of every `length` words in a row, the question that it belongs to), in order."""
        import numpy as np

        count = max(0, len(self.hashes) - length + 1)
        owners = np.arange(len(self.starts) - 1, dtype=np.int32)
        question = np.repeat(owners, np.diff(self.starts))
        inside = question[:count] == question[length - 1 : length - 1 + count]
        total = np.zeros(count, dtype=np.uint64)
        for place in range(length):
            total = total * np.uint64(_FACTOR) + self.hashes[place : place + count]
        total ^= total >> np.uint64(29)
        return total[inside], question[:count][inside]

    def whole(self) -> np.ndarray:
        """uint64 of shape (questions,): equal where the words are the same in the same order."""
        import numpy as np

        places = np.arange(len(self.hashes)) - np.repeat(self.starts[:-1], np.diff(self.starts))
        weighted = self.hashes * _powers(places)
        total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(weighted, dtype=np.uint64)])
        return total[self.starts[1:]] - total[self.starts[:-1]]

    def decisive(self) -> np.ndarray:
        """uint64 of shape (questions,): equal where the decisive words are the same in the same order."""
        import numpy as np

        chosen = (self.hashes & np.uint64(1)).astype(bool)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(chosen)])[self.starts]
        return Words(self.hashes[chosen], starts).whole()

    def blocks(self) -> Iterator[tuple[int, Words]]:
        """(number of the first question, its block): all questions in blocks of bounded size."""
        for first in range(0, len(self.starts) - 1, _BLOCK):
            starts = self.starts[first : first + _BLOCK + 1]
            yield first, Words(self.hashes[starts[0] : starts[-1]], starts - starts[0])


def _powers(places: np.ndarray) -> np.ndarray:
    import numpy as np

    longest = int(places.max(initial=0)) + 1
    return np.cumprod(np.full(longest, _FACTOR, dtype=np.uint64))[places]


def is_decisive(word: str) -> bool:
    """Whether another word in its place makes another question: a number, an operator, `smallest`, `sin`."""
    return _DECISIVE.match(word) is not None


def word_hash(word: str) -> int:
    """64 bits of BLAKE2b, of which the lowest says whether the word is decisive."""
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") & ~1 | is_decisive(word)


def hash_words(questions: Sequence[str], processes: int | None = None) -> Words:
    """Normalised words of every question as `Words`, whatever the number of processes.

    Args:
        processes: None takes one for few questions, else as many as this process has CPUs, at most 8.
    """
    if processes is None:
        processes = min(8, len(os.sched_getaffinity(0))) if len(questions) >= _MANY else 1
    chunks = [questions[i : i + _CHUNK] for i in range(0, len(questions), _CHUNK)]
    if processes == 1:
        return _joined([_hash_chunk(chunk) for chunk in chunks])
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return _joined(list(pool.imap(_hash_chunk, chunks)))


def _hash_chunk(questions: Sequence[str]) -> tuple[bytes, bytes]:
    return _hash_lists([normalised_words(question) for question in questions])


def _hash_lists(lists: Sequence[list[str]]) -> tuple[bytes, bytes]:
    """(length of each list as int64, hashes of all words as uint64)."""
    import numpy as np

    known = {word: word_hash(word) for word in {word for words in lists for word in words}}
    hashes = np.fromiter((known[word] for words in lists for word in words), np.uint64)
    return np.array([len(words) for words in lists], np.int64).tobytes(), hashes.tobytes()


def _joined(parts: Sequence[tuple[bytes, bytes]]) -> Words:
    import numpy as np

    lengths = np.frombuffer(b"".join(part[0] for part in parts), np.int64)
    hashes = np.frombuffer(b"".join(part[1] for part in parts), np.uint64)
    return Words(hashes, np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))
