"""A drawing of boxes, cells, lines and words as SVG text that reads well on light and on dark pages."""

from collections.abc import Sequence
from xml.etree import ElementTree

COLOURS = ("4e79a7", "f28e2b", "59a14f", "b07aa1", "e15759", "76b7b2", "9c755f", "d4a017", "5f6caf", "c2577f")
_STYLE = """
text { font-family: system-ui, sans-serif; font-size: 13px; fill: #24292f; text-anchor: middle }
.card { fill: #ffffff } .box { fill: #f3f5f8; stroke: #8a94a3 } .line { stroke: #8a94a3; fill: none }
.arrow { fill: #8a94a3 } .small { font-size: 11px; fill: #57606a } .strong { font-weight: 600 }
.left { text-anchor: start } .locked { fill: #c9ced6 } .gone { fill: none; stroke: #8a94a3 }
.mark { fill: #24292f; font-size: 11px } .on { font-size: 11px }
@media (prefers-color-scheme: dark) {
text { fill: #e6e9ee } .card { fill: #1e2129 } .box { fill: #2a2e38; stroke: #7d8796 } .small { fill: #a9b1bd }
.locked { fill: #4a505c } .mark { fill: #e6e9ee }
}
text.on { fill: #ffffff }
"""


class Drawing:
    """An SVG picture that grows by calls; all sizes are pixels, y runs downwards."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.root = ElementTree.Element(
            "svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width} {height}", width=str(width), role="img"
        )
        ElementTree.SubElement(self.root, "title").text = title
        ElementTree.SubElement(self.root, "style").text = _STYLE
        self._add("rect", "card", width=width, height=height, rx=8)

    def _add(self, tag: str, kind: str, **attributes: object) -> ElementTree.Element:
        named = {name.replace("_", "-"): str(value) for name, value in attributes.items()}
        return ElementTree.SubElement(self.root, tag, {"class": kind, **named})

    def text(self, x: float, y: float, words: str, kind: str = "") -> None:
        """Words centred at x (from x on, of the kind "left"), on the line y."""
        self._add("text", kind, x=x, y=y).text = words

    def box(self, x: float, y: float, width: float, height: float, lines: Sequence[str] = ()) -> None:
        """A rounded box with lines of words in it, the first one strong."""
        self._add("rect", "box", x=x, y=y, width=width, height=height, rx=6)
        for place, words in enumerate(lines):
            top = y + height / 2 + 5 + 17 * (place - (len(lines) - 1) / 2)
            self.text(x + width / 2, top, words, "strong" if place == 0 else "small")

    def cell(self, x: float, y: float, width: float, height: float, colour: str | None, gone: bool, word: str) -> None:
        """One channel: filled with its colour (None: locked), or an empty dashed frame where it goes."""
        if gone:
            self._add("rect", "gone", x=x + 1, y=y + 1, width=width - 2, height=height - 2, stroke_dasharray="3 2")
        elif colour is None:
            self._add("rect", "locked", x=x, y=y, width=width, height=height)
        else:
            self._add("rect", "", x=x, y=y, width=width, height=height, fill=f"#{colour}")
        if word:
            self.text(x + width / 2, y + height / 2 + 4, word, "mark" if gone or colour is None else "on")

    def arrow(self, *points: tuple[float, float]) -> None:
        """A line through points, each right of, left of, above or below the one before, with a head at the last one."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self._add("polyline", "line", points=path)
        (x0, y0), (x, y) = points[-2:]
        along, down = (x > x0) - (x < x0), (y > y0) - (y < y0)
        head = [(x, y), *((x - 7 * along + 4 * side * down, y - 7 * down + 4 * side * along) for side in (-1, 1))]
        self._add("polygon", "arrow", points=" ".join(f"{a:g},{b:g}" for a, b in head))

    def __str__(self) -> str:
        """The whole file."""
        ElementTree.indent(self.root)
        return ElementTree.tostring(self.root, encoding="unicode") + "\n"
