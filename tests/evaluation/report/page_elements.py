"""Reading the pages that are written: their elements, which must be closed in their order."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class Element:
    """An element of a page."""

    tag: str
    attributes: dict[str, str]
    parts: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)

    @property
    def kinds(self) -> list[str]:
        return self.attributes.get("class", "").split()

    def all(self, tag: str, kind: str | None = None, deep: bool = True) -> list[Element]:
        """Elements of that tag and class below, or just below."""
        found = []
        for part in self.parts:
            if isinstance(part, Element):
                found += [part] * (part.tag == tag and (kind is None or kind in part.kinds))
                found += part.all(tag, kind) if deep else []
        return found

    def badges(self) -> list[str]:
        """Of a step of a search tree, not of what is below."""
        return [badge.text for badge in self.all("div", "head", deep=False)[0].all("span", "badge")]

    def facts(self) -> dict[str, str]:
        """Names and values of the lists below."""
        names = [name.text for name in self.all("dt")]
        values = [value.text for value in self.all("dd") if value.attributes.get("class") != "note"]
        return dict(zip(names, values, strict=True))


class Reader(HTMLParser):
    """Reads a page and refuses elements that are not closed in their order, and comments.

    Args:
        void: tags that have no end.
    """

    def __init__(self, text: str, void: Collection[str]) -> None:
        super().__init__(convert_charrefs=True)
        self.void = void
        self.root = Element("", {})
        self._open = [self.root]
        self.feed(text)
        self.close()
        assert self._open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs))
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].parts.append(element)
        if tag not in self.void:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self._open[-1].parts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")
