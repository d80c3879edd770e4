"""The figures of the chapters, and the picture that each of them is.

Every drawing function returns a `Picture`, with a caption and a text for those who cannot see it that follow from what
was drawn; `caption=` and `alt=` put other words in their place. A network has the same colour on every page. No figure
depends on pyplot, or on how a reader has set up Matplotlib.
"""

from __future__ import annotations

import functools
import hashlib
import html
import inspect
import io
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    import matplotlib
except ValueError:  # MPLBACKEND names a backend that Matplotlib does not know; the figures here need none
    unknown_backend = os.environ.pop("MPLBACKEND")
    for module in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        del sys.modules[module]  # half imported
    import matplotlib

    os.environ["MPLBACKEND"] = unknown_backend
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from smallcnn.architecture import (
    CLASSES,
    IMAGE_SIZE,
    TARGET,
    Activation,
    Architecture,
    BatchNormalisation,
    Convolution,
    Dropout,
    Shape,
    convolution_kernels,
)
from smallcnn.study import APPROACHES, GRADUAL, PRUNED, UNPRUNED, colour

if TYPE_CHECKING:
    from smallcnn.config import TrainingRun
    from smallcnn.data import Dataset

WIDTH = 7  # inches
POINTS = 72  # in an inch; one is a unit of the SVG
FONT_SIZE = 13  # points: 9 pixels where the figure is 358 pixels wide, as on a telephone
CHARACTER = 0.52 * FONT_SIZE  # points: the usual width of one
LINE = 0.27  # inches: the height of a line of a legend
INK = "#222222"  # becomes the colour of the text of the page
PAPER_INK = "#8A8A8A"  # ink of a file where dark pages are preferred; legible on white too
ON_COLOUR = "#111111"  # for text on the colours below, whatever the colour of the page's text
DARK = 0.1  # the luminance (0 to 1) up to which a colour is hard to see on a dark page
BLUE, ORANGE, PINK, GREEN, GREY = "#56B4E9", "#E69F00", "#CC79A7", "#44AA99", "#7A7A7A"  # of what is no network
INKED = "inked"  # the id of an image that is drawn in the colour of the page's text
MOST_IN_WORDS = 5  # networks or curves of which a text gives the numbers one by one

STYLE = {
    "font.size": FONT_SIZE,
    **dict.fromkeys(("axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize"), FONT_SIZE),
    "legend.fontsize": FONT_SIZE,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "legend.frameon": False,
    "legend.columnspacing": 1.5,
    "savefig.dpi": 200,  # of the parts that are no lines
    "svg.fonttype": "path",  # the same everywhere, whatever fonts there are
    "svg.hashsalt": "smallcnn",
}
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
LINE_STYLE = "stroke-linejoin: round; stroke-linecap: butt"


@contextmanager
def book_style() -> Iterator[None]:
    """Matplotlib's own defaults with the book's changes, whatever a reader has set; afterwards all is as before."""
    defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    with matplotlib.rc_context(defaults | STYLE):
        yield


@dataclass(frozen=True, repr=False, eq=False)
class Picture:
    """A figure with its words. A notebook shows it as HTML, in the colours of its page.

    Attributes:
        figure: the Matplotlib figure.
        caption: what it shows, for everybody; may hold `code` and *emphasis*.
        alt: what is to be seen in it, for those who cannot.
    """

    figure: Figure
    caption: str
    alt: str

    def to_svg(self) -> bytes:
        """The picture as an SVG file, for an `<img>`: the same bytes for the same figure, without a background."""
        scheme = (
            f"svg{{color-scheme:light dark;color:{INK}}}@media(prefers-color-scheme:dark){{svg{{color:{PAPER_INK}}}}}"
        )
        size, content = _svg_parts(self.figure)
        svg = f'<svg {NAMESPACES} {size} style="{LINE_STYLE}"><style>{scheme}</style>{content}</svg>\n'
        return f'<?xml version="1.0" encoding="utf-8"?>\n{svg}'.encode()

    def _repr_html_(self) -> str:
        size, content = _svg_parts(self.figure)
        return (
            f'<figure class="picture" style="margin: 1rem 0"><svg {NAMESPACES} {size} role="img" '
            f'aria-label="{html.escape(self.alt)}" style="max-width: 100%; height: auto; background: none; '
            f'{LINE_STYLE}">{content}</svg><figcaption>{_to_html(self.caption)}</figcaption></figure>'
        )

    def __repr__(self) -> str:
        return f"<Picture: {textwrap.shorten(self.caption, 80, placeholder=' …')}>"


def _to_html(text: str) -> str:
    """A caption as HTML: `code` and *emphasis*, everything else as it stands."""

    def element(match: re.Match[str]) -> str:
        return f"<em>{match[2]}</em>" if match[2] else f"<code>{match[1]}</code>"

    return re.sub(r"`([^`]+)`|\*([^\s*](?:[^*]*[^\s*])?)\*", element, html.escape(text, quote=False))


def _svg_parts(figure: Figure) -> tuple[str, str]:
    """The size of a figure as attributes of an SVG element, and the content of that element.

    Matplotlib's file is made fit for a page with other pictures: ink is the page's text colour, no style holds for
    more than this picture, and ids are no other picture's.
    """
    file = io.BytesIO()
    with book_style():
        figure.savefig(file, format="svg", metadata=NO_METADATA)
    figure.set_layout_engine("none")  # laid out once: doing it again would move everything by a hair
    text = re.sub(r"<!--.*?-->|<defs>\s*<style.*?</style>\s*</defs>", "", file.getvalue().decode(), flags=re.DOTALL)
    head, content = re.search(r"<svg([^>]*)>(.*)</svg>", text, flags=re.DOTALL).groups()
    size = " ".join(re.search(rf'\b{name}="[^"]*"', head)[0] for name in ("width", "height", "viewBox"))
    content = content.replace("base64,\n", "base64,")
    content = re.sub(r"\s+", " ", re.sub(r">\s+<", "><", content)).strip()
    content = re.sub(r"\b(fill|stroke): (#[0-9a-f]{6})", _readable, content)
    content = re.sub(rf'<image\b[^>]*\bid="{INKED}"[^>]*/>', _inked, content)
    return size, _with_own_ids(content)


def _readable(match: re.Match[str]) -> str:
    """A colour for light and dark pages: ink is the colour of the text; what is nearly as dark is mixed with that."""
    name, value = match.groups()
    if value.upper() == INK:
        return f"{name}: currentColor"
    brightness = sum(share * part**2.2 for share, part in zip((0.21, 0.72, 0.07), to_rgb(value), strict=True))
    if brightness > DARK or value.upper() == ON_COLOUR:
        return match[0]
    return f"{match[0]}; {name}: color-mix(in srgb, {value} 66%, currentColor)"


def _inked(match: re.Match[str]) -> str:
    """An image of white and nothing as the mask of a rectangle in the text colour, for its ink to be the page's."""
    image = match[0].replace(f' id="{INKED}"', "")
    place = " ".join(re.findall(r'\b(?:x|y|width|height|transform)="[^"]*"', image))
    return f'<mask id="{INKED}">{image}</mask><g mask="url(#{INKED})"><rect {place} fill="currentColor"/></g>'


def _with_own_ids(content: str) -> str:
    """Keeps the ids that something refers to, each behind a prefix that follows from the content."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', content))
    content = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", content)
    prefix = f"p{hashlib.sha256(content.encode()).hexdigest()[:10]}-"
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", content)


Drawing = tuple[Figure, str, str]


def _picture(draw: Callable[..., Drawing]) -> Callable[..., Picture]:
    """Draws in the style of the book, and makes a picture of the figure, its caption and its alternative text."""

    @functools.wraps(draw)
    def drawn(*arguments: Any, caption: str | None = None, alt: str | None = None, **options: Any) -> Picture:
        with book_style():
            figure, own_caption, own_alt = draw(*arguments, **options)
        return Picture(figure, own_caption if caption is None else caption, own_alt if alt is None else alt)

    signature = inspect.signature(draw)
    words = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in ("caption", "alt")]
    drawn.__signature__ = signature.replace(  # what help() shows
        parameters=[*signature.parameters.values(), *words], return_annotation="Picture"
    )
    return drawn


# Images and networks.


@_picture
def digit_grid(images: np.ndarray, columns: int, titles: Sequence[str] | None = None) -> Drawing:
    """Draws uint8 images (n, 28, 28) row by row, ink in the colour of the text, each with a title if there are titles.

    Raises:
        ValueError: if there are titles, but not one an image.
    """
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"{len(titles)} titles for {len(images)} images; expected one each")
    rows = max(1, -(-len(images) // columns))
    gap = 3  # pixels of an image
    points = WIDTH * POINTS / (columns * (IMAGE_SIZE + gap))  # of such a pixel
    above = 0 if titles is None else round(1.6 * FONT_SIZE / points)  # pixels for a title
    height, width = above + IMAGE_SIZE + gap, IMAGE_SIZE + gap
    sheet = np.zeros((rows * height, columns * width), np.uint8)
    figure = Figure(figsize=(WIDTH, len(sheet) * points / POINTS))
    axis = figure.add_axes((0, 0, 1, 1))
    for position, image in enumerate(images):
        top, left = position // columns * height + above, position % columns * width + gap // 2
        sheet[top : top + IMAGE_SIZE, left : left + IMAGE_SIZE] = image
        if titles is not None:
            axis.text(left + IMAGE_SIZE / 2, top - 1, titles[position], ha="center", va="bottom")
    white_ink = ListedColormap([(1, 1, 1, alpha) for alpha in np.linspace(0, 1, 256)])
    axis.imshow(sheet, cmap=white_ink, vmin=0, vmax=255, interpolation="none", aspect="auto", gid=INKED)
    axis.axis("off")
    caption = "Handwritten digits." if titles is None else "Handwritten digits, each with its title."
    alt = f"{_count(len(images), 'handwritten digit')}, {columns} a row"
    return figure, caption, f"{alt}." if titles is None else f"{alt}, with the titles {', '.join(titles)}."


def first_of_each_class(dataset: Dataset, count: int) -> np.ndarray:
    """The first `count` images of every class, class by class: uint8 (10 · count, 28, 28)."""
    return np.concatenate([dataset.images[dataset.labels == digit][:count] for digit in range(CLASSES)])


@_picture
def class_counts(train_set: Dataset, test_set: Dataset) -> Drawing:
    """Draws how many images of each digit both sets hold, with a line at a tenth of the set."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    sentences = []
    for axis, dataset, name in zip(axes, (train_set, test_set), ("training set", "test set"), strict=True):
        counts = np.bincount(dataset.labels, minlength=CLASSES)
        axis.bar(range(CLASSES), counts, color=BLUE, edgecolor=INK)
        axis.axhline(len(dataset.labels) / CLASSES, color=INK, linestyle="--")
        axis.set(title=name, xlabel="digit", xticks=range(CLASSES))
        axis.grid(axis="x", visible=False)
        most, least = (int(digits) for digits in (np.argmax(counts), np.argmin(counts)))
        sentences.append(
            f"of the {len(dataset.labels):,} images of the {name} {counts[most]:,} are a {most}, the most frequent "
            f"digit, and {counts[least]:,} a {least}, the rarest"
        )
    axes[0].set_ylabel("images")
    caption = "Images of each digit; the dashed line is a tenth of the set."
    alt = f"Two bar charts of the number of images of each digit, with a line at a tenth: {'; '.join(sentences)}."
    return figure, caption, alt


@dataclass(frozen=True)
class _Box:
    """A box of the diagram: the lines above it, the shape below it, its colour."""

    lines: list[str]
    shape: Shape
    face: str

    @property
    def shown_shape(self) -> str:
        return "×".join(f"{number:,}" for number in self.shape)

    def size(self, widest: float, most_channels: int) -> tuple[float, float]:
        """Width and height in points; what has no rows is always alike."""
        if len(self.shape) == 1:
            return 7, 40
        return max(2.5, widest * self.shape[2] / most_channels), max(2.5, 2.3 * self.shape[0])


def _boxes(architecture: Architecture) -> list[_Box]:
    wrap = functools.partial(textwrap.wrap, width=14)  # of the characters that fit a quarter of the figure
    boxes = [_Box(["image"], (IMAGE_SIZE, IMAGE_SIZE, 1), GREY)]
    for placed in architecture.placed:
        layer = placed.layer
        if isinstance(layer, Dropout):
            boxes[-1].lines.extend(wrap(layer.description) if layer.rate else [])
        elif not isinstance(layer, Activation | BatchNormalisation):
            face = BLUE if isinstance(layer, Convolution) else ORANGE if "pooling" in layer.kind else GREY
            boxes.append(_Box(wrap(layer.description), placed.output_shape, face))
    return boxes


@_picture
def architecture_diagram(architecture: Architecture) -> Drawing:
    """Draws the network in reading order: a box is the output of a layer, as high as its rows, as wide as its channels.

    Batch normalisation and activations are left out; dropout stands at the box that it works on.
    """
    boxes = _boxes(architecture)
    columns = -(-len(boxes) // -(-len(boxes) // 4))  # at most four in a row, and as many in each row as can be
    cell = WIDTH * POINTS / columns
    most_channels = max(8, *(box.shape[2] for box in boxes if len(box.shape) == 3))
    line = 1.25 * FONT_SIZE
    figure = Figure()
    axis = figure.add_axes((0, 0, 1, 1))
    top = 4.0
    for start in range(0, len(boxes), columns):
        row = boxes[start : start + columns]
        sizes = [box.size(min(0.55 * cell, 70), most_channels) for box in row]
        highest = max(height for _, height in sizes)
        first_line = top + line * max(len(box.lines) for box in row)
        middle = first_line + 4 + highest / 2
        for column, (box, (width, height)) in enumerate(zip(row, sizes, strict=True)):
            centre = (column + 0.5) * cell
            corner = (centre - width / 2, middle - height / 2)
            axis.add_patch(Rectangle(corner, width, height, facecolor=box.face, edgecolor=INK, linewidth=1))
            axis.text(centre, first_line, "\n".join(box.lines), ha="center", va="bottom", linespacing=1.1)
            axis.text(centre, middle + highest / 2 + 4, box.shown_shape, ha="center", va="top")
            if start + column > 0:  # from the box before, or from the end of the row above
                before = sizes[column - 1][0] / 2 - cell / 2 if column else -cell / 2
                _arrow(axis, (column * cell + before + 5, middle), (corner[0] - 5, middle))
            if column == columns - 1 and start + columns < len(boxes):
                _arrow(axis, (centre + width / 2 + 5, middle), ((column + 1) * cell - 5, middle))
        top = middle + highest / 2 + 4 + line + 14
    bottom = top - 10
    figure.set_size_inches(WIDTH, bottom / POINTS)
    axis.set(xlim=(0, WIDTH * POINTS), ylim=(bottom, 0))
    axis.axis("off")
    caption = (
        "The network. A box is the output of a layer, as high as its image has rows and as wide as it has channels; "
        "grey boxes of one size are numbers without rows and channels"
    )
    kinds = {
        "batch normalisation": BatchNormalisation,
        "activations": Activation,
    }
    left_out = [
        name for name, kind in kinds.items() if any(isinstance(layer, kind) for layer in architecture.layers[:-1])
    ]
    caption += f". {_join(left_out).capitalize()}, which change no shape, are left out." if left_out else "."
    steps = "; ".join(f"{' '.join(box.lines)}, {box.shown_shape}" for box in boxes)
    return figure, caption, f"Boxes from left to right, row by row, joined by arrows: {steps}."


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], style: str = "->") -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": style, "color": INK, "shrinkA": 0, "shrinkB": 0})


# Learning curves.


@_picture
def learning_curves(runs: Sequence[TrainingRun], label: str) -> Drawing:
    """Draws accuracy and loss an epoch: the first run in full, the test curves of the others thin."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots(1, 2)
    first, *others = runs
    for axis, quantity, factor in zip(axes, ("accuracy", "loss"), (100, 1), strict=True):
        for run in others:
            _plot_epochs(axis, factor * run.history[f"test_{quantity}"], colour(label), linewidth=0.9, alpha=0.7)
        _plot_epochs(axis, factor * first.history[f"train_{quantity}"], INK, linestyle="--")
        test = factor * first.history[f"test_{quantity}"]
        _plot_epochs(axis, test, colour(label))
        for epoch in _learning_rate_drops(first):
            axis.axvline(epoch + 0.5, color=GREY, linestyle=":", linewidth=1.5)
        _mark_kept_epoch(axis, test, first.best_epoch, colour(label))
        _set_epochs(axis, max(run.epochs_run for run in runs))
    seeds = {f"seed {run.config.seed}": 100 * run.history["test_accuracy"] for run in runs}
    curves = seeds | {"training": 100 * first.history["train_accuracy"]}
    low = _set_accuracies(axes[0], seeds.values(), curves.values())
    losses = [run.history["test_loss"] for run in runs] + [first.history["train_loss"]]
    _set_log_scale(axes[1].yaxis, np.concatenate(losses))
    axes[0].set(title="accuracy (%)")
    axes[1].set(title="cross-entropy loss (log scale)")
    drops = len(_learning_rate_drops(first))
    _legend_below(figure, _curve_handles(label, first, len(others)))

    dropout = any(isinstance(layer, Dropout) and layer.rate for layer in first.config.architecture.layers)
    caption = (
        f"Learning curves of {label}. Training accuracy and loss are averages over the epoch, while the network is "
        f"still learning{' and with dropout on' if dropout else ''}; "
        + (f"thin lines are the test curves of {_count(len(others), 'other seed')}; " if others else "")
        + f"the circle is the epoch whose weights are kept.{_below_the_picture(curves, low)}"
    )
    accuracies, test_losses = (first.history[f"test_{name}"] for name in ("accuracy", "loss"))
    alt = (
        f"Two panels against epochs, {label} with seed {first.config.seed}. Left: test accuracy is "
        f"{_percent(accuracies.iloc[0])} after the first epoch, {_percent(first.best_test_accuracy)} after epoch "
        f"{first.best_epoch}, which a circle marks, and {_percent(accuracies.iloc[-1])} after the last, epoch "
        f"{first.epochs_run}; training accuracy ends at {_percent(first.history['train_accuracy'].iloc[-1])}. Right: "
        f"test loss goes from {test_losses.iloc[0]:.2g} to {test_losses.iloc[-1]:.2g}, training loss from "
        f"{first.history['train_loss'].iloc[0]:.2g} to {first.history['train_loss'].iloc[-1]:.2g}, on a log scale."
        + (f" Dotted lines mark {_count(drops, 'fall')} of the learning rate." if drops else "")
    )
    return figure, caption, alt


def _curve_handles(label: str, first: TrainingRun, others: int) -> list[Line2D]:
    """What the lines of `learning_curves` are, for a legend."""
    point = _point(first.epochs_run)
    handles = [
        Line2D([], [], label=f"test, seed {first.config.seed}", color=colour(label), **point),
        Line2D([], [], label="training", color=INK, **{"linestyle": "--", **point}),
    ]
    if others:
        handles.append(Line2D([], [], label="test, other seeds", color=colour(label), linewidth=0.9, alpha=0.7))
    handles.append(Line2D([], [], label="kept epoch", linestyle="none", **_dot(colour(label))))
    if _learning_rate_drops(first):
        handles.append(Line2D([], [], label="learning rate falls", color=GREY, linestyle=":", linewidth=1.5))
    return [*handles, Line2D([], [], label=_percent(TARGET, 0), color=INK, linewidth=0.8)]


@_picture
def compare_learning_curves(runs: Mapping[str, TrainingRun]) -> Drawing:
    """Draws the test accuracy an epoch of several networks, by their labels, the kept epoch of each marked."""
    figure = Figure(figsize=(WIDTH, 4), layout="constrained")
    axis = figure.subplots()
    curves = {label: 100 * run.history["test_accuracy"] for label, run in runs.items()}
    handles = []
    for (label, run), repeat in zip(runs.items(), _repeats(runs), strict=True):
        style = {"linewidth": 1.6, "linestyle": ("-", "--", ":", "-.")[repeat % 4]}
        _plot_epochs(axis, curves[label], colour(label), label=label, **style)
        _mark_kept_epoch(axis, curves[label], run.best_epoch, colour(label))
        handles.append(Line2D([], [], color=colour(label), label=label, **style))
    low = _set_accuracies(axis, curves.values(), curves.values())
    _set_epochs(axis, max(run.epochs_run for run in runs.values()))
    axis.set(xlabel="epoch", ylabel="test accuracy (%)")
    _legend_below(figure, handles)

    seeds = {run.config.seed for run in runs.values()}
    seed = f"seed {min(seeds)}" if len(seeds) == 1 else "one seed each"
    caption = (
        f"Test accuracy after every epoch, {seed}; the circle is the epoch whose weights are kept, the line marks "
        f"{_percent(TARGET, 0)}.{_below_the_picture(curves, low)}"
    )
    bests = [
        f"{label} reaches {_percent(run.best_test_accuracy)} after epoch {run.best_epoch} of {run.epochs_run}"
        for label, run in runs.items()
    ]
    return figure, caption, f"Test accuracy against epochs, a curve a network: {_shortened(bests)}."


def _plot_epochs(axis: Axes, values: Any, line_colour: str, **style: Any) -> None:
    """Plots a column of a history against its epochs; a single epoch is a point, for a line needs two."""
    axis.plot(values.index, values, color=line_colour, **{**style, **_point(len(values))})


def _point(epochs: int) -> dict[str, Any]:
    return {"linestyle": "none", "marker": "o", "markersize": 5} if epochs == 1 else {}


def _dot(face: str) -> dict[str, Any]:
    return {"marker": "o", "color": face, "markeredgecolor": INK, "markersize": 9}


def _mark_kept_epoch(axis: Axes, values: Any, epoch: int, face: str) -> None:
    axis.plot(epoch, values[epoch], linestyle="none", zorder=3, **_dot(face))


def _learning_rate_drops(run: TrainingRun) -> list[int]:
    """The epochs after which the learning rate is lower."""
    falls = run.history["learning_rate"].diff() < 0
    return [epoch - 1 for epoch in run.history.index[falls]]


def _set_epochs(axis: Axes, epochs: int) -> None:
    """An axis of epochs from 1, with whole numbers for ticks even if there is one epoch only."""
    room = 0.5 + 0.02 * epochs
    axis.set(xlim=(1 - room, epochs + room), xlabel="epoch")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10], prune=None))
    axis.set_xticks([tick for tick in axis.get_xticks() if 1 <= tick <= epochs])


def _set_accuracies(axis: Axes, zoomed: Iterable[Any], curves: Iterable[Any]) -> float:
    """Shows the accuracies (%) among which most epochs end, with the best of every curve, and the target.

    Args:
        axis: where the curves are.
        zoomed: the curves of which the lowest 15 % may fall below the picture.
        curves: all curves; the best epoch of each stays in the picture.

    Returns:
        The lowest accuracy in the picture.
    """
    tops = [float(np.max(values)) for values in curves]
    low = min([float(np.quantile(np.concatenate(list(zoomed)), 0.15)), *tops])
    high = max([100 * TARGET, *tops])
    room = max(0.1, 0.05 * (high - low))
    axis.set_ylim(low - room, high + room)
    axis.axhline(100 * TARGET, color=INK, linewidth=0.8)
    return low - room


def _below_the_picture(curves: Mapping[str, Any], low: float) -> str:
    """A sentence on the epochs whose accuracy (%) lies below `low`; empty if there are none."""
    cut = {name: [int(epoch) for epoch in values.index[values < low]] for name, values in curves.items()}
    cut = {name: epochs for name, epochs in cut.items() if epochs}
    if not cut:
        return ""
    if len(cut) > MOST_IN_WORDS:
        count, last = sum(map(len, cut.values())), max(map(max, cut.values()))
        return f" {count} accuracies lie below the picture, all of them of the first {_count(last, 'epoch')}."
    parts = [f"{name}, epoch{'s' * (len(epochs) > 1)} {_ranges(epochs)}" for name, epochs in cut.items()]
    return f" Below the picture lie: {'; '.join(parts)}."


# Accuracy against other things.


@_picture
def parameters_against_accuracy(points: Mapping[str, tuple[int, Sequence[float]]]) -> Drawing:
    """Draws each network at its trainable parameters (log scale) and test accuracy, with its seeds and their mean.

    Args:
        points: by label, the trainable parameters and the best test accuracies (0 to 1) of the seeds.
    """
    figure = Figure(figsize=(WIDTH, 4), layout="constrained")
    axis = figure.subplots()
    handles, sentences = [], []
    for (label, (parameters, accuracies)), repeat in zip(points.items(), _repeats(points), strict=True):
        values = 100 * np.array(accuracies)
        axis.plot([parameters] * len(values), values, "_", color=colour(label), markersize=14, markeredgewidth=1.5)
        style = {**_dot(colour(label)), "marker": "os^vPX"[repeat % 6], "markersize": 10}
        if label == GRADUAL:  # as many parameters as a round of pruning, so it may lie exactly behind that
            style = {"marker": "D", "fillstyle": "none", "markeredgewidth": 2, "markersize": 13, "color": colour(label)}
        axis.plot(parameters, values.mean(), linestyle="none", **style)
        handles.append(Line2D([], [], linestyle="none", label=label, **style))
        sentences.append(f"{label} at {parameters:,} and {_percent(values.mean() / 100)}")
    accuracies = 100 * np.concatenate([accuracies for _, accuracies in points.values()])
    axis.set_ylim(_with_room([*accuracies, 100 * TARGET]))
    axis.axhline(100 * TARGET, color=INK, linewidth=0.8)
    axis.text(1.0, 100 * TARGET, f" {_percent(TARGET, 0)}", transform=axis.get_yaxis_transform(), va="center")
    _set_log_scale(axis.xaxis, [parameters for parameters, _ in points.values()])
    axis.set(xlabel="trainable parameters (log scale)", ylabel="best test accuracy (%)")
    _legend_below(figure, handles)
    several = any(len(accuracies) > 1 for _, accuracies in points.values())
    caption = "Trainable parameters against best test accuracy. " + (
        "A dash is one seed, the larger mark the mean." if several else "Each mark is one seed."
    )
    alt = (
        f"Trainable parameters on a log scale against best test accuracy, with a line at {_percent(TARGET, 0)}; means: "
        f"{'; '.join(sentences)}."
    )
    return figure, caption, alt


@_picture
def paired_accuracies(pairs: Mapping[str, Mapping[str, Sequence[float]]]) -> Drawing:
    """Draws for each network the accuracies (0 to 1) of both engines, those of the same seed joined by a line.

    Args:
        pairs: by label and engine, the accuracies of the seeds, in the same order for every engine.
    """
    figure = Figure(figsize=(WIDTH, 0.6 + 1.2 * len(pairs)), layout="constrained")
    axes = figure.subplots(len(pairs), 1, sharex=True, squeeze=False)[:, 0]
    names = {"halide": "Halide", "tensorflow": "TensorFlow"}
    sentences = []
    for axis, (label, engines) in zip(axes, pairs.items(), strict=True):
        for values in zip(*engines.values(), strict=True):
            axis.plot(100 * np.array(values), range(len(values)), "o-", color=colour(label), markeredgecolor=INK)
        shown = [names.get(engine, engine) for engine in engines]
        axis.set_yticks(range(len(engines)), shown)
        axis.set_ylim(len(engines) - 0.6, -0.4)
        axis.set_title(label, loc="left")
        axis.axvline(100 * TARGET, color=INK, linewidth=0.8)
        means = [
            f"{_percent(float(np.mean(values)))} with {name}"
            for name, values in zip(shown, engines.values(), strict=True)
        ]
        sentences.append(f"{label}, {_join(means)}")
    axes[-1].set_xlabel("best test accuracy (%)")
    caption = (
        "Best test accuracy of the same seeds with each engine; a line joins the runs of one seed, the upright line "
        f"marks {_percent(TARGET, 0)}."
    )
    panels = _count(len(pairs), "panel")
    alt = f"Best test accuracies, {panels} with a row for each engine. Means: {'; '.join(sentences)}."
    return figure, caption, alt


@_picture
def sweep_points(axes: Sequence[str], points: Mapping[tuple[str, ...], Sequence[float]], label: str = "") -> Drawing:
    """Draws the points of a sweep one below the other: best test accuracy of each seed, and their mean.

    Args:
        axes: the parameters that vary.
        points: their values, and the accuracies (0 to 1) of the seeds.
        label: the network that was swept, for its colour and the caption.
    """
    names = [", ".join(point) for point in points]
    figure, axis = _named_rows(names, beside=max(map(len, names)) <= 24)
    face = colour(label) if label else BLUE
    for row, accuracies in enumerate(points.values()):
        values = 100 * np.array(accuracies)
        axis.plot(values, [row] * len(values), "|", color=face, markersize=13, markeredgewidth=1.5)
        axis.plot(values.mean(), row, linestyle="none", **_dot(face))
    axis.axvline(100 * TARGET, color=INK, linewidth=0.8)
    every = [100 * value for accuracies in points.values() for value in accuracies]
    axis.set_xlim(_with_room([*every, 100 * TARGET]))
    axis.set_xlabel("best test accuracy (%)")
    axis.set_title(", ".join(axes).replace("_", " "), loc="left")
    several = any(len(accuracies) > 1 for accuracies in points.values())
    caption = (
        f"Best test accuracy{f' of {label}' if label else ''}: "
        + ("every stroke is a seed, the dot their mean" if several else "every dot is one seed")
        + f"; the line marks {_percent(TARGET, 0)}."
    )
    means = [
        f"{name}: {_percent(float(np.mean(accuracies)))}"
        for name, accuracies in zip(names, points.values(), strict=True)
    ]
    order = sorted(points.values(), key=np.mean)
    shown = "; ".join(means) if len(means) <= 3 * MOST_IN_WORDS else (
        f"from {_percent(float(np.mean(order[0])))} to {_percent(float(np.mean(order[-1])))}"
    )  # fmt: skip
    alt = (
        f"{_count(len(points), 'row')}, one for each value of {_join([name.replace('_', ' ') for name in axes])}, with "
        f"the best test accuracies of the seeds and their mean. Means: {shown}."
    )
    return figure, caption, alt


# Time.


@_picture
def seconds_of_ways(seconds: Mapping[str, Mapping[str, Mapping[str, float]]], names: Mapping[str, str]) -> Drawing:
    """Draws the seconds an epoch of every way to train, for each approach, on one log scale.

    Args:
        seconds: by chapter and way, median, minimum and maximum.
        names: of the ways, in their order.
    """
    ways = [way for way in names if any(way in measured for measured in seconds.values())]
    figure, axis = _named_rows([names[way] for way in ways], beside=False)
    shifts = np.linspace(-0.06, 0.26, len(seconds)) if len(seconds) > 1 else [0]
    handles, extremes = [], []
    for (chapter, measured), shift in zip(seconds.items(), shifts, strict=True):
        label = chapter.replace("_", " ")
        for row, way in enumerate(ways):
            if way in measured:
                ends = [measured[way]["minimum"], measured[way]["maximum"]]
                axis.plot(ends, [row + shift] * 2, color=INK, linewidth=1.2)
                axis.plot(measured[way]["median"], row + shift, linestyle="none", **_dot(colour(label)))
                extremes += ends
        handles.append(Line2D([], [], linestyle="none", label=label, **_dot(colour(label))))
    _set_log_scale(axis.xaxis, extremes)
    axis.set_xlabel("seconds an epoch (log scale)")
    _legend_below(figure, handles)
    caption = "Seconds an epoch, test pass included: medians, and from the fastest to the slowest round."
    medians = []
    for way in ways:
        shown = [f"{measured[way]['median']:.2g}" for measured in seconds.values() if way in measured]
        medians.append(f"{names[way]}: {_join(shown)}")
    labels = _join([chapter.replace("_", " ") for chapter in seconds])
    alt = (
        f"Dots for the seconds that an epoch takes on a log scale, a row for each way to train, for {labels}. Medians "
        f"in seconds: {'; '.join(medians)}."
    )
    return figure, caption, alt


@_picture
def seconds_of_stages(milliseconds: Mapping[str, float], arithmetic: Mapping[str, float]) -> Drawing:
    """Draws the time of the stages of a training step, and in it what their multiply-adds alone would take.

    What takes less than a hundredth of the step and has no multiply-adds to compare with is one bar, the last.

    Args:
        milliseconds: of each stage.
        arithmetic: the milliseconds of its multiply-adds, for the stages that have any.
    """
    few = 0.01 * sum(milliseconds.values())
    small = {name for name, value in milliseconds.items() if name not in arithmetic and (value < few or name == "rest")}
    shown = {name: value for name, value in milliseconds.items() if name not in small}
    if small:
        shown[f"{len(small)} other{'s' * (len(small) > 1)}"] = sum(milliseconds[name] for name in small)
    names = [name.replace("_", " ") for name in shown]
    figure, axis = _named_rows(names, beside=True, inches=0.27)
    rows = range(len(shown))
    axis.barh(rows, list(shown.values()), color=BLUE)
    axis.barh(rows, [arithmetic.get(name, 0) for name in shown], height=0.4, color=INK)
    axis.set(xlabel="milliseconds a step, one core")
    axis.grid(axis="y", visible=False)
    _legend_below(figure, [Patch(color=BLUE, label="the stage"), Patch(color=INK, label="its arithmetic alone")])
    caption = "The stages of a training step on one core, and what their multiply-adds alone would take."
    longest = sorted(shown, key=lambda name: -shown[name])[:3]
    parts = _join([f"{name.replace('_', ' ')} ({shown[name]:.2g})" for name in longest])
    alt = (
        f"Bars of the milliseconds that the stages of a training step take; the longest: {parts}. Inside some bars a "
        "thinner bar shows what arithmetic alone would take."
    )
    return figure, caption, alt


@_picture
def runs_an_hour(
    stand_ins: Mapping[int, float],
    real: Mapping[int, float],
    ideal: float,
    limit: float,
    label: str = next(approach.label for approach in APPROACHES if approach.name == PRUNED),
) -> Drawing:
    """Draws runs an hour against workers, both on log scales.

    Args:
        stand_ins, real: the rates by number of workers, of sleeping stand-ins and of trainings.
        ideal: the rate of one worker if nothing but the run took time.
        limit: the highest rate that the scheduler passes.
        label: the network that was trained.
    """
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axis = figure.subplots()
    most = max(*stand_ins, *real)
    workers = np.array([1, most])
    lines = [
        axis.plot(
            list(stand_ins), list(stand_ins.values()), linestyle="none", label="sleeping stand-ins", **_dot(BLUE)
        ),
        axis.plot(
            list(real),
            list(real.values()),
            linestyle="none",
            label=f"trainings of {label}",
            **{**_dot(colour(label)), "marker": "s", "markersize": 8},
        ),
        axis.plot(workers, ideal * workers, color=GREY, linewidth=1, zorder=1, label="stand-ins, ideal"),
    ]
    lines.append([axis.axhline(limit, color=INK, linestyle="--", linewidth=1, label="runs that take no time")])
    _set_log_scale(axis.xaxis, [1, *stand_ins, *real])
    _set_log_scale(axis.yaxis, [*stand_ins.values(), *real.values(), limit, *(ideal * workers)])
    axis.set(xlabel="workers (log scale)", ylabel="runs an hour (log scale)")
    _legend_below(figure, [line for (line,) in lines])
    caption = (
        "Runs an hour against workers. Dots are sleeping stand-ins, and the grey line is what they would reach if "
        f"nothing but their sleep took time; squares are trainings of {label}."
    )
    if all(rate > ideal * count for count, rate in real.items()):
        caption += " These take less time than the run that the stand-ins take after, so they lie above the line."
    rates = [f"{_count(count, 'worker')} {rate:,.0f}" for count, rate in stand_ins.items()]
    trained = [f"{_count(count, 'worker')} {rate:,.0f}" for count, rate in real.items()]
    alt = (
        f"Runs an hour against workers on two log scales. Stand-ins: {_join(rates)}, where {ideal:,.0f} for each "
        f"worker is ideal. Trainings: {_join(trained)}. A dashed line at {limit:,.0f} is the rate of runs that "
        "take no time."
    )
    return figure, caption, alt


@_picture
def lanes() -> Drawing:
    """Draws how sixteen images lie in memory: their pixels side by side, so that a vector holds one pixel of each."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = figure.subplots(2, 1)
    images, pixels = 4, 5
    rows = {
        "one image after the other": [(image, pixel) for image in range(images) for pixel in range(pixels)],
        "side by side": [(image, pixel) for pixel in range(pixels) for image in range(images)],
    }
    for axis, (title, cells) in zip(axes, rows.items(), strict=True):
        for position, (image, pixel) in enumerate(cells):
            face = (BLUE, ORANGE, PINK, GREEN)[image]
            axis.add_patch(Rectangle((position + 0.04, 0), 0.92, 1, facecolor=face))
            name = f"{'abcd'[image]}{pixel + 1}"
            axis.text(position + 0.5, 0.48, name, ha="center", va="center", color=ON_COLOUR)
        axis.set(xlim=(0, len(cells)), ylim=(-1.1, 1.1))
        axis.set_title(title, loc="left")
        axis.axis("off")
    _arrow(axes[1], (0.04, -0.25), (images - 0.04, -0.25), "<->")
    axes[1].text(images / 2, -0.4, "one vector", ha="center", va="top")
    caption = (
        "Four images of five pixels in memory. Frameworks keep the pixels of an image together; here a vector holds "
        "the same pixel of several images (sixteen of them, not four)."
    )
    alt = (
        "Two rows of coloured cells, the pixels of four images. In the first row all pixels of image a come before "
        "those of image b. In the second row the first pixels of all images come first, then their second pixels; "
        "four cells of it are marked as one vector."
    )
    return figure, caption, alt


# Weights.


@_picture
def ranking_comparison(
    kernels: Mapping[str, np.ndarray], global_masks: Mapping[str, np.ndarray], layer_masks: Mapping[str, np.ndarray]
) -> Drawing:
    """Draws the weights of each layer by magnitude; what global and what per-layer ranking would prune is crossed.

    Args:
        kernels: of the convolutions, by name.
        global_masks, layer_masks: for each kernel what is kept of it, booleans in its shape.
    """
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    generator = np.random.default_rng(0)
    shift = {name: generator.uniform(-0.35, 0.35, kernel.size) for name, kernel in kernels.items()}
    every = np.concatenate([np.abs(kernel).ravel() for kernel in kernels.values()])
    floor = 1e-5 * (every.max() or 1.0)
    titles = ("one ranking\nfor all layers", "a ranking\nfor each layer")
    for axis, masks, title in zip(axes, (global_masks, layer_masks), titles, strict=True):
        for position, (name, kernel) in enumerate(kernels.items(), start=1):
            kept = masks[name].ravel().astype(bool)
            magnitude = np.maximum(np.abs(kernel).ravel(), floor)
            places = position + shift[name]
            options = {"linestyle": "none", "markersize": 2.5, "rasterized": True}  # thousands of marks
            axis.plot(places[kept], magnitude[kept], ".", color=colour(UNPRUNED), **options)
            axis.plot(places[~kept], magnitude[~kept], "x", color=GREY, **options)
        axis.set(title=title, xlabel="convolution", xticks=range(1, len(kernels) + 1))
        axis.grid(axis="x", visible=False)
    _set_log_scale(axes[0].yaxis, np.maximum(every, floor))
    axes[0].set_ylabel("magnitude (log scale)")
    kept_mark = Line2D([], [], linestyle="none", marker="o", markersize=6, color=colour(UNPRUNED), label="kept")
    pruned_mark = Line2D([], [], linestyle="none", marker="x", markersize=7, color=GREY, label="pruned")
    _legend_below(figure, [kept_mark, pruned_mark])

    shares = [
        [1 - np.count_nonzero(masks[name]) / kernel.size for name, kernel in kernels.items()]
        for masks in (global_masks, layer_masks)
    ]
    sparsity = 1 - sum(map(np.count_nonzero, global_masks.values())) / every.size
    caption = (
        f"The kernel weights by convolution, and which {_percent(sparsity, 1)} of them would be pruned at once, by one "
        "ranking of all layers or by one for each."
    )
    if small := int(np.count_nonzero(every < floor)):
        caption += f" {_count(small, 'weight')} smaller than {floor:.1g} are drawn there."
    left, right = ([_percent(share, 0) for share in of_kernels] for of_kernels in shares)
    alt = (
        f"Two panels of dots, the magnitude of every kernel weight on a log scale, a column for each of "
        f"{_count(len(kernels), 'convolution')}. Left, one ranking for all layers: everything below one common height "
        f"is crossed out, {_join(left)} of the columns. Right, a ranking for each layer: the crossed-out part ends at "
        f"a height of its own in each column, {_join(right)} of them."
    )
    return figure, caption, alt


@_picture
def survivors_by_layer(runs: Mapping[str, TrainingRun]) -> Drawing:
    """Draws the share of each convolution's kernel weights that is not zero in each run, by its label."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(runs)
    layers, handles, sentences = 0, [], []
    for offset, ((label, run), repeat) in enumerate(zip(runs.items(), _repeats(runs), strict=True)):
        shares = [100 * np.count_nonzero(kernel) / kernel.size for kernel in convolution_kernels(run.weights).values()]
        positions = np.arange(1, len(shares) + 1) + (offset - (len(runs) - 1) / 2) * width
        style = {"facecolor": colour(label), "edgecolor": INK, "linewidth": 0.5, "hatch": ("", "//", "..")[repeat % 3]}
        axis.bar(positions, shares, width, **style)
        handles.append(Patch(label=label, **style))
        sentences.append(f"{label}, {_join([_percent(share / 100, 0) for share in shares])}")
        layers = max(layers, len(shares))
    axis.set(xlabel="convolution", ylabel="kernel weights left (%)", xticks=range(1, layers + 1), ylim=(0, 105))
    axis.grid(axis="x", visible=False)
    _legend_below(figure, handles)
    alt = f"Bars of the share of kernel weights left in each convolution, first to last: {_shortened(sentences)}."
    return figure, "Kernel weights left in each convolution.", alt


@_picture
def weight_histograms(weights: Mapping[str, Mapping[str, np.ndarray]]) -> Drawing:
    """Draws, under each label, how the kernel weights that are not zero are distributed, all layers together.

    Args:
        weights: by label the weights of a network; what comes before a colon in the label decides the colour.
    """
    columns = min(2, len(weights))
    rows = -(-len(weights) // columns)
    figure = Figure(figsize=(WIDTH, 0.3 + 2.1 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False)
    values = {
        label: np.concatenate([np.empty(0), *(kernel[kernel != 0] for kernel in convolution_kernels(arrays).values())])
        for label, arrays in weights.items()
    }
    every = np.abs(np.concatenate(list(values.values())))
    limit = np.quantile(every, 0.995) if every.size else 1.0
    bins = np.linspace(-limit, limit, 81)
    for axis in axes.flat[len(weights) :]:
        axis.axis("off")
    for axis, (label, shown) in zip(axes.flat, values.items(), strict=False):
        axis.hist(np.clip(shown, -limit, limit), bins, color=colour(label.partition(":")[0]), edgecolor="none")
        axis.set_title(f"{label}\n{_count(len(shown), 'weight')}")
        axis.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    for column in range(columns):  # the lowest picture of a column, which may not be in the last row
        lowest = axes.flat[max(place for place in range(len(weights)) if place % columns == column)]
        lowest.set_xlabel("weight")
        lowest.xaxis.set_tick_params(labelbottom=True)
    figure.supylabel("number of weights", fontsize=FONT_SIZE)
    caption = "Kernel weights that are not zero, all convolutions together."
    if beyond := int(np.count_nonzero(every > limit)):
        caption += f" The {_count(beyond, 'weight')} beyond the ends count in the outermost bars."
    caption += " The vertical scales differ." if len(weights) > 1 else ""
    parts = [f"{label}, {_count(len(shown), 'weight')}, half of them within ±{np.median(np.abs(shown)):.2g}"
             if len(shown) else f"{label}, none" for label, shown in values.items()]  # fmt: skip
    alt = f"Histograms of the kernel weights that are not zero: {'; '.join(parts)}."
    return figure, caption, alt


# What several figures share.


def _named_rows(names: Sequence[str], beside: bool, inches: float | None = None) -> tuple[Figure, Axes]:
    """A figure with a row at y = 0, 1, … from the top for each name, which stands beside its row or above it."""
    inches = inches or (0.38 if beside else 0.62)
    figure = Figure(figsize=(WIDTH, 0.8 + inches * len(names)), layout="constrained")
    axis = figure.subplots()
    axis.set_ylim((len(names) - 0.5, -0.5) if beside else (len(names) - 0.6, -0.6))
    axis.set_yticks(range(len(names)), names if beside else [""] * len(names))
    if not beside:
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="y", visible=False)
        between = np.arange(1, len(names)) - 0.6
        axis.hlines(between, 0, 1, colors=INK, linewidth=0.8, alpha=0.3, transform=axis.get_yaxis_transform())
        for row, name in enumerate(names):
            axis.text(0.01, row - 0.38, name, transform=axis.get_yaxis_transform(), va="center")
    return figure, axis


def _legend_below(figure: Figure, handles: Sequence[Any]) -> None:
    """A legend below the axes, in as many columns as fit; the figure grows by its height, so the axes keep theirs."""
    widest = max(len(handle.get_label()) for handle in handles) * CHARACTER + 4 * FONT_SIZE
    columns = max(1, min(len(handles), int(WIDTH * POINTS / widest)))
    rows = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + LINE * rows)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def _repeats(labels: Iterable[str]) -> list[int]:
    """For each label how many before it have its colour, so that a line or a mark can differ where colours don't."""
    colours = list(map(colour, labels))
    return [colours[:position].count(own) for position, own in enumerate(colours)]


def _with_room(values: Iterable[float]) -> tuple[float, float]:
    """Limits around all values, with a twentieth of their range on both sides."""
    numbers = list(values)
    room = 0.05 * (max(numbers) - min(numbers)) or 0.1
    return min(numbers) - room, max(numbers) + room


def _set_log_scale(axis: Axis, values: Iterable[float]) -> None:
    """A log scale around the positive values, at least a factor of four from end to end, with round ticks in it."""
    positive = [float(value) for value in values if 0 < value < np.inf]
    if not positive:
        return
    low, high = min(positive), max(positive)
    room = max((high / low) ** 0.05, (4 * low / high) ** 0.5)
    low, high = low / room, high * room
    ticks: list[float] = []
    for leading in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7)):  # the coarsest of which three lie in the picture
        decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [float(f"{digit}e{decade}") for decade in decades for digit in leading]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    options = {"value": "log", "nonpositive": "mask"}
    if axis.axis_name == "x":
        axis.axes.set_xscale(**options)
        axis.axes.set_xlim(low, high)
    else:
        axis.axes.set_yscale(**options)
        axis.axes.set_ylim(low, high)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(
        FixedFormatter([np.format_float_positional(tick, trim="-") if tick < 1 else f"{tick:,.0f}" for tick in ticks])
    )
    axis.set_minor_locator(NullLocator())


# Words.


def _percent(share: float, digits: int = 2) -> str:
    """0 to 1 as per cent, with a narrow space before the sign."""
    return f"{100 * share:.{digits}f}\u202f%"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _join(words: Sequence[str]) -> str:
    """Words with commas, and an "and" before the last."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _shortened(sentences: Sequence[str]) -> str:
    """All of a few sentences; of many the first and the last."""
    if len(sentences) <= MOST_IN_WORDS:
        return "; ".join(sentences)
    return f"{len(sentences)} networks, of which {sentences[0]}, and the last, {sentences[-1]}"


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers with neighbours joined: "1–3 and 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return _join([f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs])
