"""Pieces of HTML. What is not ours is escaped here, with every character that is not seen spelled out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from evaluation.report.rollout_text import Span, plain_spans, visible


def line(text: str, limit: int = 200) -> str:
    """A short text that is not ours, on one line."""
    return f"<bdi>{escape(visible(text, limit))}</bdi>"


def block(pieces: Iterable[Span]) -> str:
    """A text of several lines, which scrolls where it is long."""
    return f"<pre tabindex='0'>{spelled(pieces)}</pre>"


def plain_block(text: str, limit: int) -> str:
    """A text that is not ours, of at most so many characters."""
    return block(plain_spans(text, limit))


def spelled(pieces: Iterable[Span]) -> str:
    """Pieces of a text, each in its colour."""
    return "".join(f"<span class='{kind}'>{escape(text)}</span>" for kind, text in pieces)


def badge(content: str, kind: str = "") -> str:
    """A small mark; its content is HTML already."""
    return f"<span class='{f'badge {kind}'.strip()}'>{content}</span>"


def fact_tile(name: str, value: str, note: str) -> str:
    """A number that stands out. All is HTML already."""
    return f"<div class='tile'><dt>{name}</dt><dd>{value}</dd><dd class='note'>{note}</dd></div>"


def table_cells(contents: Iterable[str], tag: str = "td") -> str:
    """Cells of a row of a table; their contents are HTML already."""
    return "".join(f"<{tag}>{content}</{tag}>" for content in contents)


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = (), kind: str = "") -> str:
    """A table in a box that scrolls by itself; cells are HTML already."""
    top = f"<tr>{table_cells(head, 'th')}</tr>\n" if head else ""
    body = "".join(f"<tr>{table_cells(row)}</tr>\n" for row in rows)
    return f"<div class='box' tabindex='0'><table{f' class={kind}' if kind else ''}>{top}{body}</table></div>"


def limited(pieces: Iterable[str], most_bytes: int, noun: str) -> str:
    """As many pieces of a page as there is room for, and how many are left out."""
    kept, left_out, size = [], 0, 0
    for piece in pieces:
        size += len(piece.encode("utf-8"))
        if size <= most_bytes:
            kept.append(piece)
        else:
            left_out += 1
    note = f"<p class='quiet'>{left_out:,} more {noun} are left out: the page would be too large.</p>"
    return "".join(kept) + (note if left_out else "")
