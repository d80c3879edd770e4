"""A figure with its caption and its alternative text, as a part of a page or as a file, for light and dark pages."""

from __future__ import annotations

import functools
import hashlib
import html
import io
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

if not os.environ.get("MPLBACKEND", "module://").startswith("module://"):
    del os.environ["MPLBACKEND"]  # no picture needs it, and Matplotlib cannot be imported if it does not know its value
import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

WIDTH = 7  # inches
FONT_SIZE = 13  # points: 9 pixels where the figure is 358 pixels wide, as on a telephone
INK = "#222222"  # becomes the colour of the text of the page
PAPER_INK = "#8A8A8A"  # ink of a file where dark pages are preferred; legible on white too
INKED = "inked"  # the id of an image of white and nothing, which becomes a mask of ink
INK_THROUGH_MASK = (
    rf'<mask id="{INKED}"><image\1\2/></mask>'
    f'<rect width="100%" height="100%" fill="currentColor" mask="url(#{INKED})"/>'
)
STYLE = {
    **{"font.size": FONT_SIZE, "axes.titlesize": "medium", "figure.labelsize": "medium"},
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), INK
    ),
    **{"figure.facecolor": "none", "axes.facecolor": "none", "legend.frameon": False},
    **{"axes.spines.top": False, "axes.spines.right": False},
    **{"axes.grid": True, "grid.alpha": 0.15, "axes.axisbelow": True},
    "axes.formatter.useoffset": False,
    "savefig.dpi": 200,  # of the parts that are no lines
    "svg.fonttype": "path",  # the same everywhere, whatever fonts there are
    "svg.hashsalt": "smallcnn",
}
NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
LINE_STYLE = "stroke-linejoin: round; stroke-linecap: butt"
# Of two fonts of the same name Matplotlib takes the first: its own, not another version that a machine may have.
fontManager.ttflist.sort(key=lambda font: not font.fname.startswith(matplotlib.get_data_path()))


def book_style() -> AbstractContextManager[None]:
    """Matplotlib's own defaults with the book's changes, whatever a reader has set; afterwards all is as before."""
    defaults: dict[Any, Any] = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    return matplotlib.rc_context(defaults | STYLE)


@dataclass(frozen=True, repr=False, eq=False)
class Picture:
    """A figure with its words. A notebook shows it as HTML, in the colours of its page."""

    figure: Figure
    caption: str  # what it shows, for everybody; may hold `code` and *emphasis*
    alt: str  # what is to be seen in it, for those who cannot

    def to_svg(self) -> bytes:
        """The picture as an SVG file, for an `<img>`: the same bytes for the same figure, without a background."""
        size, content = _svg_parts(self.figure)
        scheme = (
            f"svg{{color-scheme:light dark;color:{INK}}}@media(prefers-color-scheme:dark){{svg{{color:{PAPER_INK}}}}}"
        )
        svg = f'<svg {NAMESPACES} {size} style="{LINE_STYLE}"><style>{scheme}</style>{content}</svg>\n'
        return f'<?xml version="1.0" encoding="utf-8"?>\n{svg}'.encode()

    def _repr_html_(self) -> str:
        size, content = _svg_parts(self.figure)
        caption = re.sub(
            r"`([^`]+)`|\*([^\s*](?:[^*]*[^\s*])?)\*",
            lambda match: f"<em>{match[2]}</em>" if match[2] else f"<code>{match[1]}</code>",
            html.escape(self.caption, quote=False),
        )
        return (
            f'<figure class="picture" style="margin: 1rem 0"><svg {NAMESPACES} {size} role="img" '
            f'aria-label="{html.escape(self.alt)}" style="max-width: 100%; height: auto; background: none; '
            f'{LINE_STYLE}">{content}</svg><figcaption>{caption}</figcaption></figure>'
        )

    def __repr__(self) -> str:
        return f"<Picture: {self.caption[:60]} …>"


def _svg_parts(figure: Figure) -> tuple[str, str]:
    """The size of a figure as attributes of an SVG element, and the content of that element.

    Matplotlib's file is made fit for a page with other pictures: ink is the page's text colour, no style holds for
    more than this picture, and ids are no other picture's.
    """
    file = io.StringIO()
    with book_style():
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    figure.set_layout_engine("none")  # laid out once: doing it again would move everything by a hair
    text = re.sub(r"<!--.*?-->|<defs>\s*<style.*?</defs>", "", file.getvalue(), flags=re.DOTALL)
    _, head, content = re.split(r"<svg([^>]*)>", text, maxsplit=1)
    size = " ".join(re.findall(r'\b(?:width|height|viewBox)="[^"]*"', head))
    content = re.sub(r">\s+<", "><", content.rpartition("</svg>")[0]).replace(INK, "currentColor")
    content = re.sub(rf'<image\b([^>]*) id="{INKED}"([^>]*)/>', INK_THROUGH_MASK, content)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', content))
    content = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", content)
    prefix = f"p{hashlib.sha256(content.encode()).hexdigest()[:10]}-"  # of the ids that something refers to
    return size, re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", content)


def drawing(draw: Callable[..., Picture]) -> Callable[..., Picture]:
    """Makes a function draw in the style of the book; `caption=` and `alt=` put other words in the place of its own."""

    @functools.wraps(draw)
    def drawn(*arguments: Any, caption: str = "", alt: str = "", **options: Any) -> Picture:
        with book_style():
            picture = draw(*arguments, **options)
        return Picture(picture.figure, caption or picture.caption, alt or picture.alt)

    return drawn
