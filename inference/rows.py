"""The rows of one call of the transformers engine: which is in which slot, and what is forwarded next.

Suffixes: R rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from data.heartbeat import beat
from inference.engine import Follow, Generation, Request
from inference.generations import Ending, finished_generation
from inference.prefix_cache import Block
from inference.slot_cache import SlotCache, is_out_of_memory, rounded

if TYPE_CHECKING:
    from inference.transformers_engine import TransformersEngine

logger = logging.getLogger(__name__)

PREFILL_TOKENS = 4096
"""Tokens of one forward pass over prompts, padding included."""
STEPWISE = 16
"""Given tokens up to which a row under way takes them one a step, among the others."""


@dataclass(eq=False)
class Row:
    index: int
    request: Request
    ids: list[int]
    """Prompt and what was generated."""
    cached: int = 0
    """How many of them have keys and values in the row's slot."""
    logprobs: list[float] = field(default_factory=list)
    started: bool = False
    """Whether it has been among the rows that are forwarded together."""
    needs: Block | None = None
    """What is kept of its first tokens, until it begins."""

    @property
    def behind(self) -> int:
        """Tokens to compute before the last one."""
        return len(self.ids) - 1 - self.cached

    @property
    def longest(self) -> int:
        return len(self.request.prompt_ids) + self.request.params.max_tokens


class Rows:
    """One call of `generate`: the rows under way, row i in slot i, and those that wait."""

    def __init__(
        self, engine: TransformersEngine, requests: Sequence[Request], follow: Follow | None
    ) -> None:
        self.engine = engine
        self.follow = follow
        order = sorted(
            range(len(requests)), key=lambda i: (-len(requests[i].prompt_ids), requests[i].prompt_ids)
        )
        self.waiting = deque(Row(i, requests[i], list(requests[i].prompt_ids)) for i in order)
        self.rows: list[Row] = []
        self.most_rows = engine.batch_size
        self.prefixes = engine.prefix_cache
        if self.prefixes is not None:
            needed: dict[tuple[int, ...], Block | None] = {}
            for row in self.waiting:
                ids = row.request.prompt_ids
                if ids not in needed:
                    needed[ids] = row.needs = self.prefixes.need(ids)
                elif (block := needed[ids]) is not None:
                    row.needs = block
                    block.needed += 1
        self.cache = SlotCache(engine.model.config.get_text_config().num_hidden_layers)

    def step(self) -> list[tuple[int, Generation]]:
        """Let rows in, forward one token of every row; the generations that are finished."""
        while True:
            try:
                self._admit()
                self._make_room()
                self._recall()
                self._catch_up()
                chosen = self._decode()
            except RuntimeError as error:
                if not is_out_of_memory(error) or not self._can_shrink():
                    raise
                why = str(error)  # the error itself would keep the tensors of the failed pass
            else:
                return self._finish(*chosen)
            self._shrink(max(1, len(self.rows) // 2), why)

    def release(self) -> None:
        """The call ends: what rows that have not begun would need may be dropped."""
        for row in (*self.rows, *self.waiting):
            self._release(row)

    def _release(self, row: Row) -> None:
        if row.needs is not None:
            row.needs.needed -= 1
            row.needs = None

    def _can_shrink(self) -> bool:
        return max(len(self.rows), self.cache.slots) > 1 or bool(self.prefixes and self.prefixes.blocks)

    def _shrink(self, rows: int, error: str) -> None:
        """Use less memory: no kept prefixes, or where there are none, that many rows."""
        if self.prefixes is not None and self.prefixes.blocks:
            self.prefixes.give_way(error)
        else:
            self._go_on_with(rows, error)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _go_on_with(self, rows: int, error: str) -> None:
        logger.warning("out of memory with %d rows, going on with %d (%s)", len(self.rows), rows, error)
        self.most_rows = rows
        self._set_aside(len(self.rows) - rows)
        self.cache.resize(rows, self.cache.capacity)

    # -------------------------------------------------------------- slots

    def _fits(self, rows: int, tokens: int) -> bool:
        limit = self.engine.max_kv_tokens
        return rows <= self.most_rows and (limit is None or rows * rounded(tokens) <= limit)

    def _admit(self) -> None:
        """Waiting rows into free slots, some at a time; different prompts before their copies."""
        free = self.most_rows - len(self.rows)
        if not self.waiting or (self.rows and free < min(max(1, self.most_rows // 8), len(self.waiting))):
            return
        longest = max((len(row.ids) for row in self.rows), default=0)
        new: list[Row] = []
        while self.waiting and len(self.rows) + len(new) < self.most_rows:
            longest = max(longest, len(self.waiting[0].ids))
            if self.rows + new and not self._fits(len(self.rows) + len(new) + 1, longest + 1):
                break
            new.append(self.waiting.popleft())
        first = {tuple(row.ids): row for row in reversed(new)}
        self.rows += [*reversed(first.values()), *(row for row in new if first[tuple(row.ids)] is not row)]

    def _make_room(self) -> None:
        """A place for one more token of every row; rows for which there is none wait again."""
        longest = max(len(row.ids) for row in self.rows)
        excess = 0
        while excess < len(self.rows) - 1 and not self._fits(len(self.rows) - excess, longest + 1):
            excess += 1
        if excess:
            logger.debug("%d of %d rows wait: max_kv_tokens is full", excess, len(self.rows))
            self._set_aside(excess)
        rows, capacity, limit = len(self.rows), self.cache.capacity, self.engine.max_kv_tokens
        if longest + 1 > capacity:
            roomy = min(max(row.longest for row in self.rows), capacity + capacity // 2)
            capacity = rounded(max(longest + 1, roomy))
        if limit is not None and rows * capacity > limit:
            capacity = rounded(longest + 1)
        kept = self.cache.slots if capacity == self.cache.capacity else 0  # growing copies them anyway
        slots = max(kept, min(self.most_rows, rows + len(self.waiting)))
        self.cache.resize(slots if limit is None else min(slots, limit // capacity), capacity)

    def _set_aside(self, count: int) -> None:
        """The shortest rows wait again, at the head of the queue; what they have generated stays."""
        for row in sorted(self.rows, key=lambda row: len(row.ids))[:count]:
            self._leave(self.rows.index(row))
            row.cached, row.started = 0, False
            self.waiting.appendleft(row)

    def _leave(self, slot: int) -> None:
        """Free a slot; the last row moves into it."""
        last = self.rows.pop()
        if slot < len(self.rows):
            self.cache.copy(len(self.rows), slot, last.cached)
            self.rows[slot] = last

    def _recall(self) -> None:
        """What is kept of the first tokens of rows that begin; those with most to compute come first, then
        their copies."""
        slots = [slot for slot, row in enumerate(self.rows) if not row.started and not row.cached]
        if self.prefixes is None or not slots:
            return
        seen: dict[tuple[int, ...], tuple[list[Block], int]] = {}
        found = []
        for row in (self.rows[slot] for slot in slots):
            ids = tuple(row.ids)
            is_copy = ids in seen
            path, shared = seen[ids] if is_copy else seen.setdefault(ids, self.prefixes.find(ids))
            found.append((is_copy, shared - len(row.ids), row, path, shared))
        found.sort(key=lambda entry: entry[:2])
        for slot, (_, _, row, _, _) in zip(slots, found, strict=True):
            self.rows[slot] = row
        self.prefixes.give(self.cache, [(slot, entry[3]) for slot, entry in zip(slots, found, strict=True)])
        for _, _, row, _, shared in found:
            row.cached = shared
            self._release(row)

    # -------------------------------------------------------------- forward passes

    def _catch_up(self) -> None:
        """Keys and values of rows that are far behind, but for their last token; equal prompts once."""
        first_of: dict[tuple[int, ...], int] = {}
        fresh, copies = [], []
        for slot, row in enumerate(self.rows):
            if row.behind <= (STEPWISE if row.started else 0):
                continue
            first = first_of.setdefault(tuple(row.ids), slot)
            if first == slot or row.started:
                fresh.append(slot)
            else:
                copies.append((first, slot))
        for group in _neighbours(fresh, [row.behind for row in self.rows]):
            self._extend(group)
        for source, slot in copies:
            self.rows[slot].cached = self.rows[source].cached
            self.cache.copy(source, slot, self.rows[source].cached)

    def _extend(self, slots: range) -> None:
        """Compute all but the last token of the rows in these slots, a part at a time."""
        rows = [self.rows[slot] for slot in slots]
        while (longest := max(row.behind for row in rows)) > 0:
            width = min(longest, max(1, PREFILL_TOKENS // len(rows)))
            parts = [row.ids[row.cached : min(row.cached + width, len(row.ids) - 1)] for row in rows]
            ids_RT = torch.tensor([part + [0] * (width - len(part)) for part in parts])
            self.engine.forward(self.cache, slots.start, ids_RT, [row.cached for row in rows])
            beat()
            for row, part in zip(rows, parts, strict=True):
                row.cached += len(part)
                self.engine.forwarded_tokens += len(part)

    def _decode(self) -> tuple[list[int], list[int], list[float]]:
        """Forward one token of every row; (slot, new token, its log-probability) of those whose given tokens
        are all computed."""
        ids_R1 = torch.tensor([[row.ids[row.cached]] for row in self.rows])
        logits_RV = self.engine.forward(self.cache, 0, ids_R1, [row.cached for row in self.rows])
        slots = [slot for slot, row in enumerate(self.rows) if not row.behind]
        logits_RV = logits_RV if len(slots) == len(self.rows) else logits_RV[slots]
        return slots, *self.engine.choose(logits_RV, [self.rows[slot] for slot in slots])

    def _finish(
        self, slots: list[int], tokens: list[int], logprobs: list[float]
    ) -> list[tuple[int, Generation]]:
        """Take in what `_decode` has chosen; the generations that it finishes."""
        for row in self.rows:
            row.cached += 1
            row.started = True
        self.engine.forwarded_tokens += len(self.rows)
        finished: list[tuple[int, Generation]] = []
        done: list[int] = []
        for slot, token, logprob in reversed(list(zip(slots, tokens, logprobs, strict=True))):
            row = self.rows[slot]
            row.ids.append(token)
            row.logprobs.append(logprob)
            generation = self._finished(row)
            if generation is not None and not self._follows(row, generation):
                finished.append((row.index, generation))
                done.append(slot)
        if self.prefixes is not None:
            rows = [(slot, self.rows[slot]) for slot in done]
            self.prefixes.keep(self.cache, [(slot, row.ids[: row.cached]) for slot, row in rows])
        for slot in done:
            self._leave(slot)
        return finished

    def _finished(self, row: Row) -> Generation | None:
        """The generation, if its last token ends it."""
        params, stops = row.request.params, self.engine.stops
        start, last = len(row.request.prompt_ids), row.ids[-1]
        ended = last in self.engine.end_ids
        full = len(row.ids) - start == params.max_tokens
        tokens, text = row.ids[start:], ""
        if params.stop and stops.found(row.ids, start, params.stop):
            text = str(self.engine.tokenizer.decode(tokens))
        # the last bytes alone may be a stop text where the whole is none (bytes that are no character)
        found = [(text.find(stop) + len(stop), stop) for stop in params.stop if stop in text]
        if not (ended or full or found):
            return None
        logprobs = row.logprobs if params.logprobs else None
        ending = Ending("stop" if ended else "length")
        if not found:
            return finished_generation(self.engine.tokenizer, tokens, ending, (), logprobs)
        # complete with the last token, since no token before it ended the row
        end, stop = min(found)
        return Generation(
            token_ids=tokens, text=text[:end], finish_reason="stop", stop_reason=stop, logprobs=logprobs
        )

    def _follows(self, row: Row, generation: Generation) -> bool:
        """Put the request that follows in the row's place, if there is one."""
        request = self.follow(row.index, generation) if self.follow else None
        if request is None:
            return False
        self.engine.check([request])
        ids = list(request.prompt_ids)
        pairs = zip(ids, row.ids, strict=False)
        same = next((i for i, (new, old) in enumerate(pairs) if new != old), min(len(ids), len(row.ids)))
        row.cached = min(row.cached, same, len(ids) - 1)
        row.started = row.cached > 0
        row.ids, row.request, row.logprobs = ids, request, []
        return True


def _neighbours(slots: Sequence[int], behind: Sequence[int]) -> Iterator[range]:
    """Slots in ranges whose rows make one forward pass of at most PREFILL_TOKENS."""
    start = 0
    for end in range(1, len(slots) + 1):
        group = slots[start : end + 1]
        whole = end == len(slots) or slots[end] != slots[end - 1] + 1
        if whole or len(group) * max(behind[slot] for slot in group) > PREFILL_TOKENS:
            yield range(slots[start], slots[end - 1] + 1)
            start = end
