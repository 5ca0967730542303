"""Near-duplicates: questions that say the same in almost the same words.

MinHash (Broder, 1997) over runs of three normalised words finds pairs, which are then compared exactly.
Word problems that differ in their numbers are different questions, and often share nine words of ten. So
two questions are near-duplicates only if their decisive words (`data.word_hashes.is_decisive`: numbers,
operators, variables, words such as `smallest`) are the same, in the same order, and so are the words of
their answers: a pentagon in the place of a hexagon, or another drawing, changes no number of the
question.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from data.word_hashes import Words

if TYPE_CHECKING:
    import numpy as np

SHINGLE_WORDS = 3
BANDS, ROWS = (
    16,
    4,
)  # of 64 permutations: a pair of similarity 0.7 is found with probability 0.99, of 0.8 with 0.9998
_SEED = 42


def near_duplicates(
    words: Words, answers: Words, order: Iterable[int], threshold: float
) -> dict[int, tuple[int, float]]:
    """Questions to drop: number of the question -> (number of the kept question, Jaccard similarity).

    Questions are taken in `order`; each is kept unless it is a near-duplicate of one that was kept before.

    Args:
        words: the normalised words of the questions.
        answers: those of their answers.
        order: a permutation of the questions, the preferred ones first.
        threshold: least Jaccard similarity, in (0, 1], of the sets of three-word runs.
    Raises:
        ValueError: a threshold outside (0, 1].
    """
    import numpy as np

    check_threshold(threshold)
    groups = _groups(words, words.decisive() ^ (answers.whole() * np.uint64(3)))
    kept: defaultdict[int, list[int]] = defaultdict(list)
    shingles: dict[int, np.ndarray] = {}
    dropped: dict[int, tuple[int, float]] = {}
    for question in order:
        own = [group for group in groups[question].tolist() if group >= 0]
        if not own:
            continue
        mine = _shingles(words, question)
        best = max(
            ((_jaccard(mine, shingles[other]), -place, other) for place, other in _seen(kept, own)),
            default=(0.0, 0, -1),
        )
        if best[0] >= threshold:
            dropped[question] = (best[2], best[0])
            continue
        shingles[question] = mine
        for group in own:
            kept[group].append(question)
    return dropped


def check_threshold(threshold: float) -> None:
    """Raises:
    ValueError: a threshold outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"near_duplicates: {threshold} is not in (0, 1]; null keeps near-duplicates")


def _seen(kept: defaultdict[int, list[int]], groups: Iterable[int]) -> Iterable[tuple[int, int]]:
    return enumerate(dict.fromkeys(other for group in groups if group in kept for other in kept[group]))


def _groups(words: Words, same: np.ndarray) -> np.ndarray:
    """int32 of shape (questions, BANDS): the group of equal band and `same`; -1 where it has one member."""
    import numpy as np

    keys = np.zeros((len(words.starts) - 1, BANDS), dtype=np.uint64)
    for first, block in words.blocks():
        keys[first : first + len(block.starts) - 1] = _band_keys(block)
    enough = np.diff(words.starts) >= SHINGLE_WORDS
    groups = np.full(keys.shape, -1, dtype=np.int32)
    total = 0
    for band in range(BANDS):
        _, group, count = np.unique(
            keys[enough, band] ^ same[enough], return_inverse=True, return_counts=True
        )
        groups[enough, band] = np.where(count[group] > 1, group + total, -1)
        total += len(count)
    return groups


def _band_keys(block: Words) -> np.ndarray:
    """uint64 of shape (questions, BANDS)."""
    import numpy as np
    import rensa

    hashes, question = block.runs(SHINGLE_WORDS)
    offsets = np.searchsorted(question, np.arange(len(block.starts))).astype(np.uint64)
    make = rensa.RMinHash.digest_matrix_from_flat_token_hashes  # pyright: ignore[reportAttributeAccessIssue]
    matrix = make(hashes, offsets, BANDS * ROWS, _SEED)
    digests = np.array(matrix.to_rows(), dtype=np.uint64).reshape(-1, BANDS, ROWS)
    keys = np.zeros(digests.shape[:2], dtype=np.uint64)
    for row in range(ROWS):
        keys = (keys ^ digests[:, :, row]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(31)
    return keys


def _shingles(words: Words, question: int) -> np.ndarray:
    """Sorted hashes of the three-word runs of one question."""
    import numpy as np

    start, end = words.starts[question : question + 2]
    return np.unique(Words(words.hashes[start:end], np.array([0, end - start])).runs(SHINGLE_WORDS)[0])


def _jaccard(one: np.ndarray, other: np.ndarray) -> float:
    import numpy as np

    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)
