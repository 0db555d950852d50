"""A page as a browser would see it: elements, addresses and text, by the standard library's parser."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

INLINE = {"a", "code", "em", "span", "strong", "text"}
VOID = {"meta", "link", "input", "br", "hr", "img"}


@dataclass
class Element:
    name: str
    attributes: dict[str, str]
    parts: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """As it reads: a space on both sides of what begins a line of its own."""
        inside = [p if isinstance(p, str) else p.text if p.name in INLINE else f" {p.text} " for p in self.parts]
        return "".join(inside)

    @property
    def words(self) -> str:
        """Its text with single spaces."""
        return " ".join(self.text.split())

    def all(self, name: str, /, **attributes: str) -> list[Element]:
        inside = [p for p in self.parts if isinstance(p, Element)]
        here = [p for p in inside if p.name == name and attributes.items() <= p.attributes.items()]
        return here + [found for p in inside for found in p.all(name, **attributes)]

    def one(self, name: str, /, **attributes: str) -> Element:
        [found] = self.all(name, **attributes)
        return found

    def rows(self) -> list[list[str]]:
        """The cells of every table row."""
        return [[cell.words for cell in row.parts if isinstance(cell, Element)] for row in self.all("tr")]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs})
        self.open[-1].parts.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].parts.append(Element(tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].name == tag, f"</{tag}> ends <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].parts.append(data)


def parse(html: str) -> Element:
    """Fails where an element is not closed, or closed out of order."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == [reader.root], f"not closed: {[e.name for e in reader.open[1:]]}"
    return reader.root
