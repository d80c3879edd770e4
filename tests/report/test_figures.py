"""Figures: what is drawn is what was given, in the right place and colour, for any rerun and on any page."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from smallcnn.architecture import (
    TARGET,
    Activation,
    Architecture,
    AveragePooling,
    BatchNormalisation,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling,
    Layer,
    MaxPooling,
    convolution_kernels,
    initial_weights,
)
from smallcnn.config import TrainingConfig, TrainingRun, history_frame
from smallcnn.data import Dataset
from smallcnn.report import figures
from smallcnn.report.picture import INK, INKED, Picture
from smallcnn.study import APPROACHES, GRADUAL, ROUND_COLOURS, UNPRUNED, colour, round_label
from tests.report.reading import plain

ROOT = Path(__file__).parents[2]
RELU, SOFTMAX = Activation("relu"), Activation("softmax")
LABELS = [approach.label for approach in APPROACHES]
NARROW = "\u202f"
LINE = 1.4 * 13  # points: the height of a line of text


def block(filters: int) -> list[Layer]:
    return [Convolution(filters), RELU, BatchNormalisation()]


NETWORKS = {
    "pooled": Architecture(
        (*block(4), MaxPooling(), *block(8), Dropout(0.1), GlobalAveragePooling(), Dense(10), SOFTMAX)
    ),
    "twelve convolutions": Architecture(
        (*(layer for filters in range(8, 20) for layer in block(filters)), GlobalAveragePooling(), Dense(10), SOFTMAX)
    ),
    "no convolution": Architecture((Flatten(), Dense(10), SOFTMAX)),
    "every kind, long words": Architecture(
        (
            *(BatchNormalisation(), Convolution(1024, 5, "same", use_bias=False), Activation("leaky_relu", 0.1)),
            *(Dropout(0.123456), AveragePooling(3), Dropout(0.2), Dropout(0.3), Flatten(), Dense(1024), RELU),
            *(Dropout(0.5), Dense(10, use_bias=False), SOFTMAX),
        )
    ),
}  # fmt: skip
SMALL = NETWORKS["pooled"]


def run_of(
    accuracies: Sequence[float],
    seed: int = 0,
    training: Sequence[float] | None = None,
    rates: Sequence[float] | None = None,
    architecture: Architecture = SMALL,
    weights: dict[str, np.ndarray] | None = None,
) -> TrainingRun:
    """A run with these accuracies (0 to 1), and with losses that no other seed or set of images has."""
    epochs = len(accuracies)
    config = TrainingConfig(architecture, seed, epochs, 125, 0.01, 10, 0.98, 4, 0.5, 60_000, "halide")
    columns = {
        "learning_rate": list(rates or [0.01] * epochs),
        "train_loss": list(np.geomspace(0.7 + seed, 0.007, epochs)),
        "train_accuracy": list(training or np.linspace(0.95, 0.996, epochs)),
        "test_loss": list(np.geomspace(0.4 + seed, 0.03 + seed / 100, epochs)),
        "test_accuracy": list(accuracies),
        "test_correct": [round(10_000 * accuracy) for accuracy in accuracies],
    }
    weights = weights or initial_weights(architecture, seed)
    best = int(np.argmax(accuracies)) + 1
    predicted = np.zeros(10_000, np.uint8)
    return TrainingRun(config, history_frame(columns), [[]] * epochs, best, predicted, weights, [1.0], 1.0, {})


RATES = [0.01] * 5 + [0.005] * 4 + [0.0025] * 3
RUNS = [  # each with its best epoch, 7, 9 and 8, before the last
    run_of([0.90, 0.97, 0.985, 0.988, 0.989, 0.99, 0.9935, 0.993, 0.9925, 0.993, 0.9931, 0.9932], 3, rates=RATES),
    run_of([0.91, 0.96, 0.984, 0.987, 0.988, 0.99, 0.9925, 0.992, 0.9945, 0.992, 0.9921, 0.9922], 5),
    run_of([0.92, 0.95, 0.983, 0.986, 0.987, 0.99, 0.9905, 0.9955, 0.9915, 0.991, 0.9911, 0.9912], 8),
]
BY_LABEL = dict(zip(LABELS, RUNS, strict=True))
POINTS = {
    "approach 1": (7968, [0.9921, 0.9924, 0.9928]),
    "approach 2": (5382, [0.9941, 0.9946, 0.9949]),
    GRADUAL: (2471, [0.9933]),
}
SECONDS = {
    f"approach_{number}": {
        way: {
            "median": 2.0 * number + place,
            "minimum": 1.5 * number + place,
            "maximum": 3.0 * number + place,
            "all": [],
        }
        for place, way in enumerate(("slow", "fast"))
    }
    for number in (1, 2)
}
STAGES = {"rest": 0.3, "block_1_activation": 0.5, "block_2_output": 0.4, "little": 0.001, "least": 0.002}


def kernels_of(architecture: Architecture = SMALL) -> dict[str, np.ndarray]:
    return convolution_kernels(initial_weights(architecture, 1))


def masks_of(share: float) -> dict[str, np.ndarray]:
    return {name: np.abs(kernel) > np.quantile(np.abs(kernel), share) for name, kernel in kernels_of().items()}


def pruned(share: float) -> dict[str, np.ndarray]:
    return {
        name: array * (masks_of(share)[name] if array.ndim == 4 else 1)
        for name, array in initial_weights(SMALL, 1).items()
    }


def digits(count: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (count, 28, 28), np.uint8)


def sets() -> tuple[Dataset, Dataset]:
    """Digit d is d + 1 times in the first set, and 20 - d times in the second."""
    of_sets = [
        np.repeat(np.arange(10), counts).astype(np.uint8) for counts in (np.arange(1, 11), np.arange(20, 10, -1))
    ]
    return tuple(Dataset(digits(len(labels)), labels) for labels in of_sets)


PICTURES: dict[str, Callable[..., Picture]] = {
    "digit_grid": lambda **words: figures.digit_grid(digits(5), 3, list("abcde"), **words),
    "class_counts": lambda **words: figures.class_counts(*sets(), **words),
    "architecture_diagram": lambda **words: figures.architecture_diagram(SMALL, **words),
    "learning_curves": lambda **words: figures.learning_curves(RUNS, "approach 2", **words),
    "compare_learning_curves": lambda **words: figures.compare_learning_curves(BY_LABEL, **words),
    "parameters_against_accuracy": lambda **words: figures.parameters_against_accuracy(POINTS, **words),
    "paired_accuracies": lambda **words: figures.paired_accuracies(
        {"approach 1": {"halide": [0.991, 0.992], "tensorflow": [0.993, 0.994]}}, **words
    ),
    "seconds_of_ways": lambda **words: figures.seconds_of_ways(SECONDS, {"slow": "Slow", "fast": "Fast"}, **words),
    "seconds_of_stages": lambda **words: figures.seconds_of_stages(STAGES, {"block_1_activation": 0.2}, **words),
    "lanes": lambda **words: figures.lanes(**words),
    "sweep_points": lambda **words: figures.sweep_points(["epochs"], {("1",): [0.98, 0.99], ("2",): [0.9]}, **words),
    "runs_an_hour": lambda **words: figures.runs_an_hour(
        {10: 460.0, 50: 2300.0}, {1: 60.0}, 46.0, 5e5, "approach 3", **words
    ),
    "ranking_comparison": lambda **words: figures.ranking_comparison(
        kernels_of(), masks_of(0.5), masks_of(0.3), **words
    ),
    "survivors_by_layer": lambda **words: figures.survivors_by_layer(
        {UNPRUNED: run_of([0.9], weights=pruned(0.2))}, **words
    ),
    "weight_histograms": lambda **words: figures.weight_histograms({"unpruned: trained": pruned(0.2)}, **words),
}  # fmt: skip


@functools.cache
def html_of(name: str) -> str:
    """A picture as HTML, made once for several tests."""
    return picture_of(name)._repr_html_()


def colour_of(artist: Any) -> str:
    return to_hex(artist.get_color() if isinstance(artist, Line2D) else artist.get_facecolor()).upper()


def lines_of(axis: Axes, marker: str = "") -> list[tuple[list[float], list[float], str]]:
    """The lines with `marker`: horizontal places, heights, colour."""
    lines = [line for line in axis.lines if line.get_marker() in ([marker] if marker else ["", "None"])]
    return [(list(line.get_xdata()), list(line.get_ydata()), colour_of(line)) for line in lines]


def percents(run: TrainingRun, column: str = "test_accuracy") -> list[float]:
    return [100 * value for value in run.history[column]]


def legend_of(figure: Figure) -> dict[str, str]:
    """The colours of a legend by label."""
    legend = figure.legends[0]
    handles = (handle for handle in legend.legend_handles)
    return {text.get_text(): colour_of(handle) for text, handle in zip(legend.get_texts(), handles, strict=True)}


def ticks_of(axis: Axes) -> list[float]:
    low, high = axis.get_xlim()
    return [tick for tick in axis.get_xticks() if low <= tick <= high]


def assert_inside(axis: Axes) -> None:
    """Every point of every line that has a place lies within the limits of the axes, which are finite."""
    limits = np.array([sorted(axis.get_xlim()), sorted(axis.get_ylim())])
    assert np.isfinite(limits).all()
    for line in axis.lines:
        if line.get_transform() == axis.transData and len(line.get_xdata()):
            for (low, high), values in zip(limits, (line.get_xdata(), line.get_ydata()), strict=True):
                assert low <= np.min(values) and np.max(values) <= high


def assert_dots(axis: Axes, count: int) -> None:
    """There are so many lines of dots, which lie above all else and have an edge of ink."""
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert len(dots) == count
    for line in dots:
        style = (line.get_linestyle(), line.get_markeredgecolor(), line.get_markersize(), line.get_zorder())
        assert style == ("None", INK, 9, 3)


def extents(figure: Figure) -> tuple[list[Any], list[Any]]:
    """The places of texts and of boxes in a drawn figure, in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axis = figure.axes[0]
    texts = [text.get_window_extent() for text in axis.texts if text.get_text()]
    return texts, [patch.get_window_extent() for patch in axis.patches]


class Tags(HTMLParser):
    """Checks that every element is closed, and collects texts and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: Counter[str] = Counter()
        self.attributes: dict[str, dict[str, str | None]] = {}
        self.texts: dict[str, str] = {}

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.names[tag] += 1
        self.attributes.setdefault(tag, dict(attributes))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.names[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in self.open:
            self.texts[tag] = self.texts.get(tag, "") + data


def parse(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    tags.close()
    assert not tags.open
    return tags


def ids_of(markup: str) -> list[str]:
    return re.findall(r'\bid="([^"]*)"', markup)


# What holds for every picture.


def test_every_drawing_function_is_tried_here() -> None:
    public = {name for name, value in vars(figures).items() if hasattr(value, "__wrapped__") and name[0] != "_"}
    assert public == set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_a_part_of_any_page(name: str) -> None:
    picture, again = picture_of(name), PICTURES[name](caption="Other words.", alt="Still others.")
    html = html_of(name)

    tags = parse(html)
    assert html.startswith('<figure class="picture"') and html.count("<figure") == html.count("<svg") == 1
    assert tags.attributes["svg"]["role"] == "img"
    assert tags.attributes["svg"]["aria-label"] == picture.alt
    assert "max-width: 100%" in tags.attributes["svg"]["style"]
    assert tags.texts["figcaption"] == picture.caption

    svg = re.search(r"<svg.*</svg>", html, re.DOTALL)[0]
    ElementTree.fromstring(svg)  # raises if it is not well-formed
    assert "currentColor" in svg and INK.lower() not in svg.lower() and "background: none" in svg
    assert not re.search(r"\bnan\b|<metadata|<style|<title|<\?xml|<!DOCTYPE|/home|/work|/tmp|20\d\d-\d\d", svg)
    assert not re.search(r"(fill|stroke): #(fff(fff)?|000(000)?)\b", svg)  # would be lost on a light or dark page
    ids = ids_of(svg)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)) == set(ids)
    assert len({identifier[:11] for identifier in ids}) <= 1  # all with the prefix of this picture

    assert (again.caption, again.alt) == ("Other words.", "Still others.")
    assert svg.partition(">")[2] == re.search(r"<svg.*</svg>", again._repr_html_(), re.DOTALL)[0].partition(">")[2]
    assert repr(picture).startswith("<Picture: ") and len(repr(picture)) < 100


# What the pictures above say: caption and text for those who cannot see them.
WORDS = {
    "digit_grid": (
        "Handwritten digits.",
        "5 handwritten digits, 3 a row, with the titles a, b, c, d, e.",
    ),
    "class_counts": (
        "Images of each digit; the dashed line is a tenth of the set.",
        "Two bar charts of the number of images of each digit, with a line at a tenth. Of 55 images of the training "
        "set most are a 9, 10, and fewest a 0, 1. Of 155 images of the test set most are a 0, 20, and fewest a 9, "
        "11.",
    ),
    "architecture_diagram": (
        "The network. A box is the output of a layer, as high as its image has rows and as wide as it has channels; "
        "what has neither is always alike. Batch normalisation and activations change no shape and are left out.",
        "Boxes from left to right, row by row, joined by arrows: image, 28×28×1; convolution 3×3, 26×26×4; max "
        "pooling 2×2, 13×13×4; convolution 3×3 dropout 10 %, 11×11×8; global average pooling, 8; dense, 10.",
    ),
    "learning_curves": (
        "Learning curves of approach 2. Training accuracy and loss are averages over the epoch, while the network is"
        " still learning and with dropout on. Fainter lines are the test curves of 2 other seeds. The circle is the "
        "epoch whose weights are kept, the line marks 99 %. Too low for the picture: 6 points of the curves.",
        "Two panels against epochs, approach 2 with seed 3. Test accuracy is 90.00 % at first, 99.35 % after epoch "
        "7, which a circle marks, and 99.32 % at last, after epoch 12. Test loss goes from 3.4 to 0.06, training "
        "loss from 3.7 to 0.007. The learning rate has 2 falls.",
    ),
    "compare_learning_curves": (
        "Test accuracy after every epoch, one seed each. The circle is the epoch whose weights are kept, the line "
        "marks 99 %. Too low for the picture: 6 points of the curves.",
        "Test accuracy against epochs, a curve a network. approach 1: 99.35 % after epoch 7 of 12. approach 2: 99.45"
        " % after epoch 9 of 12. approach 3: 99.55 % after epoch 8 of 12.",
    ),
    "parameters_against_accuracy": (
        "Trainable parameters against best test accuracy. A dash is a seed, the larger mark the mean, the line marks"
        " 99 %.",
        "Trainable parameters on a log scale against best test accuracy. Means: approach 1 at 7,968 and 99.24 %; "
        "approach 2 at 5,382 and 99.45 %; pruned gradually at 2,471 and 99.33 %.",
    ),
    "paired_accuracies": (
        "Best test accuracies of the same seeds with each engine. Slanting lines join a seed's, the line marks 99 %.",
        "Best test accuracies, 1 panel with a row for each engine. Means: approach 1, 99.15 % with Halide and 99.35 "
        "% with TensorFlow.",
    ),
    "seconds_of_ways": (
        "Seconds an epoch, test pass included: medians, and from the fastest to the slowest round.",
        "Dots for the seconds that an epoch takes on a log scale, a row for each way to train. Medians in seconds: "
        "approach 1, Slow 2 and Fast 3. approach 2, Slow 4 and Fast 5.",
    ),
    "seconds_of_stages": (
        "The stages of a training step on one core, and what their multiply-adds alone would take.",
        "Bars of the milliseconds that the stages of a training step take: block 1 activation 0.5, block 2 output "
        "0.4 and 3 others 0.3.",
    ),
    "lanes": (
        "Four images of five pixels in memory. Frameworks keep the pixels of an image together; here a vector holds "
        "the same pixel of several images (sixteen of them, not four).",
        "Two rows of coloured cells, the pixels of images a to d. First all pixels of a come before those of b; "
        "below, the first pixels of all four come first, marked as one vector, then their second pixels.",
    ),
    "sweep_points": (
        "Best test accuracy. A stroke is a seed, the dot their mean, the line marks 99 %.",
        "Best test accuracies, a row for each value of epochs. Means: 1: 98.50 % and 2: 90.00 %.",
    ),
    "runs_an_hour": (
        "Runs an hour against workers. The grey line is what stand-ins would reach if only their sleep took time. "
        "Trainings of approach 3 take less time than that, so they lie above the line.",
        "Runs an hour against workers on two log scales. With 10 workers 460 and 50 workers 2,300 stand-ins. With 1 "
        "workers 60 trainings. A line at 500,000 is the rate of runs that take no time.",
    ),
    "ranking_comparison": (
        "The kernel weights by convolution, and which 50.0 % of them would be pruned at once, by one ranking of all "
        "layers or by one for each.",
        "Two panels, the magnitude of every kernel weight on a log scale, a column for each convolution. Left, what "
        "lies below one common height is crossed out, 50 % and 50 % of the columns. Right, this height is another in"
        " each column: 31 % and 30 % of them.",
    ),
    "survivors_by_layer": (
        "Kernel weights left in each convolution.",
        "Bars of the share of kernel weights left in each convolution, first to last. unpruned: 78 % and 80 %.",
    ),
    "weight_histograms": (
        "Kernel weights that are not zero; those beyond the ends count in the outermost bars. Vertical scales differ.",
        "Histograms of the kernel weights that are not zero. unpruned: trained: 258 weights, half of them within "
        "±0.15.",
    ),
}
# The axes of the pictures above: title, what stands at x and at y, and their scales.
LINEAR, LOG_X, LOG_Y, LOG = ("linear", "linear"), ("log", "linear"), ("linear", "log"), ("log", "log")
AXES = {
    "digit_grid": [("", "", "", LINEAR)],
    "class_counts": [("training set", "digit", "images", LINEAR), ("test set", "digit", "", LINEAR)],
    "architecture_diagram": [("", "", "", LINEAR)],
    "learning_curves": [
        ("accuracy (%)", "epoch", "", LINEAR),
        ("cross-entropy loss (log scale)", "epoch", "", LOG_Y),
    ],
    "compare_learning_curves": [("", "epoch", "test accuracy (%)", LINEAR)],
    "parameters_against_accuracy": [
        ("", "trainable parameters (log scale)", "best test accuracy (%)", LOG_X),
    ],
    "paired_accuracies": [("approach 1", "best test accuracy (%)", "", LINEAR)],
    "seconds_of_ways": [("", "seconds an epoch (log scale)", "", LOG_X)],
    "seconds_of_stages": [("", "milliseconds a step, one core", "", LINEAR)],
    "lanes": [("one image after the other", "", "", LINEAR), ("side by side", "", "", LINEAR)],
    "sweep_points": [("epochs", "best test accuracy (%)", "", LINEAR)],
    "runs_an_hour": [("", "workers (log scale)", "runs an hour (log scale)", LOG)],
    "ranking_comparison": [
        ("one ranking\nfor all layers", "convolution", "magnitude (log scale)", LOG_Y),
        ("a ranking\nfor each layer", "convolution", "", LOG_Y),
    ],
    "survivors_by_layer": [("", "convolution", "kernel weights left (%)", LINEAR)],
    "weight_histograms": [("unpruned: trained\n258 weights", "", "", LINEAR)],
}  # fmt: skip


@functools.cache
def picture_of(name: str) -> Picture:
    """A picture, drawn once for tests that only look at it."""
    return PICTURES[name]()


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_says_what_it_shows(name: str) -> None:
    picture = picture_of(name)
    assert (plain(picture.caption), plain(picture.alt)) == WORDS[name]
    shown = [
        (axis.get_title() + axis.get_title(loc="left"), axis.get_xlabel(), axis.get_ylabel(), scales)
        for axis in picture.figure.axes
        for scales in [(axis.get_xscale(), axis.get_yscale())]
    ]
    assert shown == AXES[name]
    drawn_without = {"digit_grid", "architecture_diagram", "lanes"}
    assert {axis.axison for axis in picture.figure.axes} == {name not in drawn_without}


@pytest.mark.parametrize("name", [name for name, (caption, _) in WORDS.items() if "the line marks 99 %" in caption])
def test_the_line_that_marks_the_figure_is_there(name: str) -> None:
    axis = picture_of(name).figure.axes[0]
    accuracy_is_x = AXES[name][0][1] == "best test accuracy (%)"
    across = axis.get_xaxis_transform() if accuracy_is_x else axis.get_yaxis_transform()
    (line,) = [
        line
        for line in axis.lines
        if line.get_transform() == across and colour_of(line) != figures.GREY  # as a fall of the learning rate is
    ]
    assert list(line.get_xdata() if accuracy_is_x else line.get_ydata()) == [99, 99]
    assert (colour_of(line), line.get_linewidth(), line.get_linestyle()) == (INK, 0.8, "-")


@pytest.mark.parametrize("name", PICTURES)
def test_only_lines_that_help_to_read_a_value_are_in_the_background(name: str) -> None:
    without = {"x": ("class_counts", "ranking_comparison", "survivors_by_layer"), "y": ("seconds_of_stages",)}
    for axis in picture_of(name).figure.axes:
        assert axis.xaxis.get_gridlines()[0].get_visible() is (name not in without["x"])
        assert axis.yaxis.get_gridlines()[0].get_visible() is (name not in without["y"])


@pytest.mark.parametrize(
    ("values", "limits", "ticks"),
    [
        ([2.0, 8.0], (2 / 4**0.05, 8 * 4**0.05), ["2", "3", "5", "7"]),
        ([1.0, 30.0], (30**-0.05, 30**1.05), ["1", "2", "5", "10", "20"]),
        ([3.0, 2000.0], (3 / (2000 / 3) ** 0.05, 2000 * (2000 / 3) ** 0.05), ["10", "100", "1,000"]),
        ([6.0], (3, 12), ["3", "5", "7", "10"]),
        ([6.0, 12.0], (6 / 2**0.5, 12 * 2**0.5), ["5", "7", "10"]),
        ([0.0, -1.0, np.inf, 0.02], (0.01, 0.04), ["0.01", "0.02", "0.03"]),
        ([0.0], (0.5, 2), ["0.5", "0.7", "1", "2"]),
    ],
)
def test_a_log_scale_lies_closely_around_its_values(
    values: list[float], limits: tuple[float, float], ticks: list[str]
) -> None:
    figure = Figure()
    for dimension in "xy":
        axes = figure.add_subplot()
        axis = getattr(axes, f"{dimension}axis")
        figures._set_log_scale(axis, values)
        assert axis.get_view_interval() == pytest.approx(limits)
        assert (axes.get_xscale(), axes.get_yscale()) == ((LOG_X, LOG_Y)[dimension == "y"])
        places = [tick for tick in axis.get_majorticklocs() if limits[0] * 0.999 <= tick <= limits[1] * 1.001]
        assert axis.get_major_formatter().format_ticks(places) == ticks
        assert len(axis.get_minorticklocs()) == 0


@pytest.mark.parametrize(("length", "columns"), [(16, 3), (17, 2)])
def test_a_legend_has_as_many_columns_as_fit(length: int, columns: int) -> None:
    runs = dict.fromkeys([*"abcdef", "x" * length], RUNS[0])
    figure = figures.compare_learning_curves(runs).figure
    assert figure.legends[0]._ncols == columns
    rows = {3: 3, 2: 4}[columns]
    assert figure.get_figheight() == pytest.approx(4 + rows * LINE / 72)
    assert figure.get_figwidth() == 7


def test_a_file_is_the_same_each_time_and_stands_alone() -> None:
    first, second = picture_of("parameters_against_accuracy"), PICTURES["parameters_against_accuracy"]()
    content = first.to_svg()
    assert content == first.to_svg() == second.to_svg()
    root = ElementTree.fromstring(content)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("viewBox").startswith("0 0 504 ")
    assert INK in root[0].text and "prefers-color-scheme" in root[0].text
    assert b"background" not in content and b"date" not in content


def test_pictures_on_one_page_share_no_ids() -> None:
    html = "".join(html_of(name) for name in ("runs_an_hour", "sweep_points", "digit_grid"))
    assert not [name for name, count in Counter(ids_of(html)).items() if count > 1]


def luminance(shown: str) -> float:
    """How bright a colour is, from 0 to 1, as the Web Content Accessibility Guidelines have it."""
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(shown)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize("label", [*LABELS, GRADUAL, *map(round_label, range(len(ROUND_COLOURS)))])
def test_colours_are_seen_on_light_and_dark_pages(label: str) -> None:
    assert 0.1 < luminance(colour(label)) < 0.5


@pytest.mark.parametrize(
    ("caption", "html"),
    [
        ("a < b & `x*y*z` and *so* on", "a &lt; b &amp; <code>x*y*z</code> and <em>so</em> on"),
        ("2 * 3 * 4, `<b>`", "2 * 3 * 4, <code>&lt;b&gt;</code>"),
        ("</figcaption><script>", "&lt;/figcaption&gt;&lt;script&gt;"),
    ],
)
def test_captions_may_hold_code_and_emphasis(caption: str, html: str) -> None:
    picture = figures.lanes(caption=caption, alt='a "quoted" <b> & more')
    shown = picture._repr_html_()
    assert f"<figcaption>{html}</figcaption>" in shown
    assert parse(shown).attributes["svg"]["aria-label"] == 'a "quoted" <b> & more'


def test_no_setting_of_a_reader_reaches_a_picture(tmp_path: Path) -> None:
    rcfile = tmp_path / "matplotlibrc"
    rcfile.write_text("text.usetex: True\nfont.family: serif\nsvg.fonttype: none\nfigure.figsize: 2, 2\n")
    program = (
        "import sys\n"
        "from smallcnn.report import figures\n"
        "import matplotlib\n"
        "matplotlib.rcParams.update({'lines.linewidth': 9, 'text.color': 'red', 'figure.facecolor': 'black'})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "draw = lambda: figures.sweep_points(['epochs'], {('1',): [0.98, 0.99], ('2',): [0.9]})\n"
        "sys.stdout.buffer.write(draw().to_svg())\n"
        "assert matplotlib.rcParams['lines.linewidth'] == 9 and matplotlib.rcParams['text.usetex']\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    environment = os.environ | {"MPLBACKEND": "nonsense", "MATPLOTLIBRC": str(rcfile), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == PICTURES["sweep_points"]().to_svg()


def test_a_style_changes_nothing_and_stays_as_it_was() -> None:
    plain = PICTURES["sweep_points"]().to_svg()
    before = PICTURES["sweep_points"]()
    with matplotlib.rc_context({"axes.facecolor": "black", "text.usetex": True, "font.size": 30, "svg.hashsalt": "x"}):
        assert before.to_svg() == plain == PICTURES["sweep_points"]().to_svg()
        assert matplotlib.rcParams["font.size"] == 30


# Images and networks.


@pytest.mark.parametrize("titles", [None, ["1 → 7", "2 → 3", "9 → 4", "5 → 6", "8 → 0"]])
def test_digits_stand_in_their_places_under_their_titles(titles: list[str] | None) -> None:
    images = digits(5)
    figure = figures.digit_grid(images, 3, titles).figure
    axis = figure.axes[0]
    (image_of_all,) = axis.images
    assert image_of_all.get_clim() == (0, 255) and image_of_all.get_gid() == INKED
    assert [image_of_all.cmap(level) for level in (0, 255)] == [(1, 1, 1, 0), (1, 1, 1, 1)]
    assert image_of_all.get_interpolation() == "none" and image_of_all.get_extent()[:2] == [-0.5, 3 * 31 - 0.5]
    assert figure.get_size_inches() == pytest.approx([7, 7 * (len(image_of_all.get_array()) / (3 * 31))])
    sheet = np.asarray(axis.images[0].get_array())
    height, width = sheet.shape[0] // 2, sheet.shape[1] // 3
    places = []
    for position, image in enumerate(images):
        top, left = position // 3 * height, position % 3 * width
        cell = sheet[top : top + height, left : left + width]
        found = [
            (row, column)
            for row in range(height - 27)
            for column in range(width - 27)
            if np.array_equal(cell[row : row + 28, column : column + 28], image)
        ]
        assert len(found) == 1
        places.append((left + found[0][1] + 14, top + found[0][0]))
    assert [text.get_text() for text in axis.texts] == (titles or [])
    for text, (centre, top) in zip(axis.texts, places, strict=False):
        assert text.get_position() == (centre, top - 1)


def test_titles_lie_above_images_and_not_over_each_other() -> None:
    texts, _ = extents(figures.digit_grid(digits(12), 6, ["1 → 7"] * 12).figure)
    assert not overlaps(texts)


def test_digits_without_an_image_are_an_empty_picture() -> None:
    picture = figures.digit_grid(digits(0), 6, [])
    assert "0 handwritten digits" in picture.alt
    assert picture.to_svg()
    with pytest.raises(ValueError):
        figures.digit_grid(digits(2), 6, ["a"])


def test_the_first_images_of_each_class_come_class_by_class() -> None:
    images, labels = digits(40), np.tile(np.arange(10), 4).astype(np.uint8)
    found = figures.first_of_each_class(Dataset(images, labels), 2)
    assert np.array_equal(found, images[[place for digit in range(10) for place in (digit, digit + 10)]])


def test_class_counts_are_those_of_their_set() -> None:
    picture = picture_of("class_counts")
    for axis, title, counts in zip(
        picture.figure.axes, ("training set", "test set"), (range(1, 11), range(20, 10, -1)), strict=True
    ):
        assert axis.get_title() == title
        assert [bar.get_height() for bar in axis.patches] == list(counts)
        assert [bar.get_center()[0] for bar in axis.patches] == list(axis.get_xticks()) == list(range(10))
        assert {(colour_of(bar), to_hex(bar.get_edgecolor())) for bar in axis.patches} == {(figures.BLUE, INK)}
        (tenth,) = axis.lines
        assert (list(tenth.get_ydata()), tenth.get_linestyle(), colour_of(tenth)) == ([sum(counts) / 10] * 2, "--", INK)
    assert picture.figure.get_size_inches() == pytest.approx([7, 3.2])


def overlaps(places: Sequence[Any], others: Sequence[Any] = ()) -> list[tuple[Any, Any]]:
    """The pairs that overlap, by more than what rounding to pixels makes."""

    def apart(one: Any, other: Any) -> bool:
        return min(one.x1, other.x1) - max(one.x0, other.x0) < 1 or min(one.y1, other.y1) - max(one.y0, other.y0) < 1

    pairs = [(one, other) for place, one in enumerate(places) for other in (others or places[place + 1 :])]
    return [pair for pair in pairs if not apart(*pair)]


@pytest.mark.parametrize("name", NETWORKS)
def test_labels_of_a_network_lie_over_no_box_and_no_other_label(name: str) -> None:
    picture = figures.architecture_diagram(NETWORKS[name])
    texts, boxes = extents(picture.figure)
    assert not overlaps(texts) and not overlaps(texts, boxes) and not overlaps(boxes)
    whole = picture.figure.bbox
    assert all(whole.x0 <= place.x0 and place.x1 <= whole.x1 for place in [*texts, *boxes])
    assert all(whole.y0 <= place.y0 and place.y1 <= whole.y1 for place in [*texts, *boxes])


def test_a_network_is_drawn_layer_by_layer_to_scale() -> None:
    picture = picture_of("architecture_diagram")
    axis = picture.figure.axes[0]
    labels = [text for text in axis.texts if text.get_text()]
    texts = [text.get_text() for text in labels]
    assert texts[::2] == [
        "image", "convolution\n3×3", "max pooling\n2×2", "convolution\n3×3\ndropout 10 %", "global average\npooling",
        "dense",
    ]  # fmt: skip
    assert texts[1::2] == ["28×28×1", "26×26×4", "13×13×4", "11×11×8", "8", "10"]
    sizes = [(box.get_width(), box.get_height()) for box in axis.patches]
    images = [(70 * channels / 8, 2.3 * rows) for channels, rows in ((1, 28), (4, 26), (4, 13), (8, 11))]
    assert sizes == [pytest.approx(size) for size in (*images, (7, 40), (7, 40))]
    grey, blue, orange = figures.GREY, figures.BLUE, figures.ORANGE
    assert [colour_of(box) for box in axis.patches] == [grey, blue, orange, blue, orange, grey]
    assert {to_hex(box.get_edgecolor()) for box in axis.patches} == {INK}
    cell = 7 * 72 / 3  # three boxes in a row, each in the middle of its cell
    for place, (box, above, below) in enumerate(zip(axis.patches, labels[::2], labels[1::2], strict=True)):
        centre, height = box.get_center(), box.get_height()
        row = axis.patches[place // 3 * 3 :][:3]
        assert (
            centre[0] == above.get_position()[0] == below.get_position()[0] == pytest.approx((place % 3 + 0.5) * cell)
        )
        tallest = max(other.get_height() for other in row)
        assert above.get_position()[1] == pytest.approx(centre[1] - tallest / 2 - 4)
        assert below.get_position()[1] == pytest.approx(centre[1] + tallest / 2 + 4)
        assert [above.get_va(), below.get_va()] == ["bottom", "top"] and height <= tallest
    arrows = [text for text in axis.texts if not text.get_text()]
    assert len(arrows) == 5  # to each box but the first
    for place, arrow in enumerate(arrows):
        box, following = axis.patches[place : place + 2]
        end = following.get_x() if place % 3 < 2 else 3 * cell  # or the end of the row
        middle = box.get_center()[1]
        assert arrow.xyann == pytest.approx((box.get_x() + box.get_width() + 5, middle))
        assert arrow.xy == pytest.approx((end - 5, middle))
        assert arrow.arrow_patch.get_arrowstyle().arrow == "->"
        assert (arrow.arrow_patch.shrinkA, arrow.arrow_patch.shrinkB) == (0, 0)
    bottom = axis.get_ylim()[0]
    assert axis.get_ylim()[1] == 0 and picture.figure.get_size_inches() == pytest.approx([7, bottom / 72])
    assert bottom == pytest.approx((3 + 2 + 2) * LINE + 2.3 * 28 + 40 + 2 * 16)  # lines of text, boxes, space


def test_narrow_layers_are_seen_and_rows_are_as_even_as_can_be() -> None:
    network = NETWORKS["twelve convolutions"]
    boxes = figures.architecture_diagram(network).figure.axes[0].patches
    assert len(boxes) == 15 and len({round(box.get_center()[0]) for box in boxes}) == 4
    narrow = figures.architecture_diagram(NETWORKS["every kind, long words"]).figure.axes[0].patches
    assert [box.get_width() for box in narrow[:2]] == [2.5, 70]  # one channel of 1,024
    shades = [colour_of(box) for box in narrow]
    assert shades == [figures.GREY, figures.BLUE, figures.ORANGE, *[figures.GREY] * 3]


# Learning curves.


def test_learning_curves_are_those_of_their_runs() -> None:
    picture = picture_of("learning_curves")
    own, epochs = colour("approach 2").upper(), list(range(1, 13))
    for axis, column, factor in zip(picture.figure.axes, ("accuracy", "loss"), (100, 1), strict=True):
        values = {
            (name, place): [factor * value for value in run.history[f"{name}_{column}"]]
            for place, run in enumerate(RUNS)
            for name in ("test", "train")
        }
        lines = [line for line in axis.lines if len(line.get_xdata()) == 12]
        assert all(list(line.get_xdata()) == epochs for line in lines)
        drawn = [(list(line.get_ydata()), colour_of(line), line.get_linestyle()) for line in lines]
        assert drawn == [
            (values["test", 1], own, "-"),
            (values["test", 2], own, "-"),
            (values["train", 0], INK, "--"),
            (values["test", 0], own, "-"),
        ]
        assert [line.get_alpha() for line in lines] == [0.5, 0.5, None, None]
        assert [line.get_label() for line in lines] == [
            "test, other seeds", "_test, other seeds", "training", "test, seed 3"
        ]  # fmt: skip
        (kept,) = lines_of(axis, "o")
        assert kept == ([7], [values["test", 0][6]], own)
        falls = [line for line in axis.lines if line.get_linestyle() == ":"]
        assert [list(line.get_xdata()) for line in falls] == [[5.5, 5.5], [9.5, 9.5]]
        assert {colour_of(line) for line in falls} == {figures.GREY}
    left, right = picture.figure.axes
    assert [100 * TARGET] * 2 in [heights for _, heights, _ in lines_of(left)]
    assert legend_of(picture.figure) == {
        "test, seed 3": own, "training": INK, "test, other seeds": own, "learning rate falls": figures.GREY
    }  # fmt: skip
    losses = [*(loss for run in RUNS for loss in run.history["test_loss"]), *RUNS[0].history["train_loss"]]
    room = (max(losses) / min(losses)) ** 0.05
    assert right.get_ylim() == pytest.approx((min(losses) / room, max(losses) * room))
    assert picture.figure.get_figheight() == pytest.approx(3.4 + 2 * LINE / 72)


def test_the_caption_says_what_was_on_during_training() -> None:
    still = "while the network is still learning"
    dropped = Architecture((Flatten(), Dropout(0.0), Dense(10), SOFTMAX))
    for network in (NETWORKS["no convolution"], dropped):
        picture = figures.learning_curves([run_of([0.9, 0.991, 0.99], architecture=network), RUNS[0]], "mine")
        assert f"{still}. Fainter lines are the test curves of 1 other seed. The" in picture.caption
        assert (
            "Test loss goes from 0.4 to 0.03, training loss from 0.7 to 0.007. The learning rate has 0" in picture.alt
        )
    odd = dataclasses.replace(RUNS[0], history=RUNS[0].history / 3)
    alt = figures.learning_curves([odd], "mine").alt
    assert "Test loss goes from 1.1 to 0.02, training loss from 1.2 to 0.0023. The learning rate has 2 falls." in alt
    assert f"{still} and with dropout on. " in picture_of("learning_curves").caption


@pytest.mark.parametrize(
    "curves",
    [
        ([0.985, 0.9899, 0.995, 0.99], [0.9, 0.98, 0.985, 0.986]),  # the lowest best is below the figure
        ([0.9905, 0.9906, 0.9907], [0.9908, 0.99081, 0.9909]),  # so close that the room is a tenth of a point
        ([0.5, 0.6, 0.7, 0.8, 0.9, 0.91, 0.92],),  # all are below the figure
        ([0.2, *[0.995] * 8], [0.3, *[0.996] * 8]),
    ],
)
def test_accuracies_are_shown_from_where_most_epochs_end_to_the_best(curves: tuple[list[float], ...]) -> None:
    picture = figures.compare_learning_curves({str(place): run_of(curve) for place, curve in enumerate(curves)})
    every = sorted(value for curve in curves for value in curve)
    place = 0.15 * (len(every) - 1)
    quantile = every[int(place)] + place % 1 * (every[int(place) + 1] - every[int(place)])
    low, high = min(quantile, TARGET, *map(max, curves)), max(TARGET, *every)
    room = max(0.001, 0.05 * (high - low))
    axis = picture.figure.axes[0]
    assert axis.get_ylim() == pytest.approx((100 * (low - room), 100 * (high + room)))
    below = sum(value < low - room for value in every)
    points = "1 point" if below == 1 else f"{below} points"
    assert picture.caption.endswith(
        f" Too low for the picture: {points} of the curves." if below else "marks 99\u202f%."
    )


def test_the_caption_says_how_much_lies_below_the_picture() -> None:
    picture = figures.learning_curves(RUNS, "approach 2")
    low = picture.figure.axes[0].get_ylim()[0]
    curves = [*map(percents, RUNS), percents(RUNS[0], "train_accuracy")]
    below = sum(value < low for values in curves for value in values)
    assert below and picture.caption.endswith(f" Too low for the picture: {below} points of the curves.")
    steady = figures.learning_curves([run_of([0.991, 0.992, 0.993], training=[0.991, 0.992, 0.993])], "approach 1")
    assert "Too low" not in steady.caption and "other seed" not in steady.caption
    assert "learning rate falls" not in legend_of(steady.figure)


@pytest.mark.parametrize("accuracy", [0.0, 0.14, 0.62, 0.9912, 1.0])
def test_one_epoch_is_a_point_at_a_whole_number(accuracy: float) -> None:
    run = run_of([accuracy], training=[0.41])
    pictures = figures.learning_curves([run], "approach 3"), figures.compare_learning_curves({"approach 3": run})
    for picture in pictures:
        for axis in picture.figure.axes:
            assert ticks_of(axis) == [1]
            points = [line for line in axis.lines if list(line.get_xdata()) == [1]]
            assert points and all(line.get_marker() == "o" for line in points)
            assert_inside(axis)


@pytest.mark.parametrize("epochs", [2, 3, 7, 40, 1000])
def test_ticks_of_epochs_are_whole_numbers(epochs: int) -> None:
    picture = figures.compare_learning_curves({"approach 1": run_of(np.linspace(0.9, 0.99, epochs))})
    ticks = ticks_of(picture.figure.axes[0])
    assert len(ticks) >= 2 and all(tick % 1 == 0 for tick in ticks)


def test_curves_of_a_comparison_have_the_colours_of_their_labels() -> None:
    picture = figures.compare_learning_curves(BY_LABEL)
    axis = picture.figure.axes[0]
    drawn = {line_colour: heights for places, heights, line_colour in lines_of(axis) if len(places) == 12}
    assert drawn == {colour(label).upper(): percents(run) for label, run in zip(LABELS, RUNS, strict=True)}
    kept = {line_colour: (places, heights) for places, heights, line_colour in lines_of(axis, "o")}
    assert kept == {
        colour(label).upper(): ([epoch], [percents(run)[epoch - 1]])
        for label, run, epoch in zip(LABELS, RUNS, (7, 9, 8), strict=True)
    }
    assert legend_of(picture.figure) == {label: colour(label).upper() for label in LABELS}
    assert picture.figure.get_figheight() == pytest.approx(4 + LINE / 72)
    both = dict.fromkeys(("approach 1", "approach 2"), RUNS[0])
    assert figures.compare_learning_curves(both).caption.startswith(
        "Test accuracy after every epoch, seed 3. The circle"
    )


def test_a_poor_network_stays_in_the_picture() -> None:
    poor = run_of([0.098, 0.1, 0.12, 0.11])
    picture = figures.compare_learning_curves({"approach 1": RUNS[0], "approach 2": RUNS[1], "approach 3": poor})
    low, high = picture.figure.axes[0].get_ylim()
    assert low < 12 and high > 99.45
    picture = figures.learning_curves([RUNS[0], poor], "approach 1")
    assert picture.figure.axes[0].get_ylim()[0] < 12


def test_a_legend_takes_no_room_from_the_axes() -> None:
    many = figures.compare_learning_curves({round_label(number): RUNS[0] for number in range(18)})
    one = figures.compare_learning_curves({"approach 1": RUNS[0]})
    heights = []
    for picture in (many, one):
        FigureCanvasAgg(picture.figure).draw()
        heights.append(picture.figure.axes[0].get_window_extent().height)
    assert heights[0] > 0.9 * heights[1]


# Accuracy against other things.


def test_networks_stand_at_their_parameters_and_accuracies() -> None:
    picture = figures.parameters_against_accuracy(POINTS)
    axis = picture.figure.axes[0]
    seeds = {line_colour: (places, heights) for places, heights, line_colour in lines_of(axis, "_")}
    for label, (parameters, accuracies) in POINTS.items():
        places, heights = seeds[colour(label).upper()]
        assert places == [parameters] * len(accuracies) and heights == [100 * accuracy for accuracy in accuracies]
        marker = "D" if label == GRADUAL else "o"
        (mean,) = [line for line in lines_of(axis, marker) if line[2] == colour(label).upper()]
        assert mean[0] == [parameters] and mean[1] == pytest.approx([100 * np.mean(accuracies)])
    assert legend_of(picture.figure) == {label: colour(label).upper() for label in POINTS}
    (ring,) = [line for line in axis.lines if line.get_marker() == "D"]  # through which a round of pruning is seen
    assert (ring.get_fillstyle(), ring.get_markeredgewidth(), ring.get_markersize()) == ("none", 2, 14)
    assert {line.get_linestyle() for line in axis.lines if line.get_marker() in "_oD"} == {"None"}
    assert_dots(axis, 2)
    assert_inside(axis)


@pytest.mark.parametrize(
    "points",
    [
        {"approach 1": (100, [0.14])},
        {"approach 1": (100, [0.14, 0.97]), "approach 2": (100_000, [0.9961, 1.0])},
        {"approach 3": (3090, [0.9921])},
        {round_label(number): (int(5382 * 0.5**number), [0.994 - 0.12 * number, 0.1]) for number in range(7)},
        {"approach 1": (2, [0.0])},
    ],
)
def test_any_network_lies_inside_the_picture(points: dict[str, Any]) -> None:
    picture = figures.parameters_against_accuracy(points)
    axis = picture.figure.axes[0]
    assert_inside(axis)
    FigureCanvasAgg(picture.figure).draw()
    ticks = ticks_of(axis)
    assert 2 <= len(ticks) <= 7
    shown = {label.get_position()[0]: label.get_text() for label in axis.get_xticklabels()}
    assert [shown[tick] for tick in ticks] == [f"{tick:,.0f}" for tick in ticks]
    place = axis.get_window_extent()
    assert place.width > 500 and place.height > 250  # pixels, a hundred to the inch


def test_paired_runs_are_joined_seed_by_seed() -> None:
    pairs = {
        "approach 1": {"halide": [0.991, 0.992, 0.9925], "tensorflow": [0.9935, 0.9931, 0.9922]},
        "approach 3": {"halide": [0.981, 0.982, 0.9825], "tensorflow": [0.9835, 0.9831, 0.9822]},
    }
    picture = figures.paired_accuracies(pairs)
    for axis, (label, engines) in zip(picture.figure.axes, pairs.items(), strict=True):
        assert axis.get_title(loc="left") == label
        assert [text.get_text() for text in axis.get_yticklabels()] == ["Halide", "TensorFlow"]
        drawn = [(places, heights) for places, heights, _ in lines_of(axis, "o")]
        assert drawn == [([100 * one, 100 * other], [0, 1]) for one, other in zip(*engines.values(), strict=True)]
        assert {line_colour for _, _, line_colour in lines_of(axis, "o")} == {colour(label).upper()}
        joined = [line for line in axis.lines if line.get_marker() == "o"]
        assert {(line.get_linestyle(), line.get_markeredgecolor()) for line in joined} == {("-", INK)}
        assert axis.get_ylim() == (1.4, -0.4)
        assert_inside(axis)
    first, last = picture.figure.axes
    assert (first.get_xlabel(), last.get_xlabel()) == ("", "best test accuracy (%)")
    assert first.get_xlim() == last.get_xlim()
    assert picture.figure.get_figheight() == pytest.approx(0.6 + 2 * 1.2)
    assert plain(picture.alt) == (
        "Best test accuracies, 2 panels with a row for each engine. Means: approach 1, 99.18 % with Halide and 99.29 % "
        "with TensorFlow; approach 3, 98.18 % with Halide and 98.29 % with TensorFlow."
    )
    other = figures.paired_accuracies({"mine": {"cuda": [0.5], "halide": [0.6]}})
    assert [text.get_text() for text in other.figure.axes[0].get_yticklabels()] == ["cuda", "Halide"]


def test_sweep_points_stand_at_their_values() -> None:
    points = {("0.001", "4-8"): [0.991, 0.992], ("0.01", "4-8"): [0.983, 0.984, 0.985]}
    picture = figures.sweep_points(["learning_rate", "filters"], points)
    axis = picture.figure.axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["0.001, 4-8", "0.01, 4-8"]
    for row, accuracies in enumerate(points.values()):
        seeds, mean = lines_of(axis, "|")[row], lines_of(axis, "o")[row]
        assert seeds == ([100 * value for value in accuracies], [row] * len(accuracies), figures.BLUE)
        assert mean[0] == pytest.approx([100 * np.mean(accuracies)]) and mean[1:] == ([row], figures.BLUE)
    assert axis.get_ylim() == (1.5, -0.5) and axis.get_title(loc="left") == "learning rate, filters"
    assert picture.figure.get_figheight() == pytest.approx(0.8 + 2 * (LINE + 6) / 72)
    assert_dots(axis, 2)
    assert_inside(axis)
    assert plain(picture.alt) == (
        "Best test accuracies, a row for each value of learning rate, filters. Means: 0.001, 4-8: 99.15 % and "
        "0.01, 4-8: 98.40 %."
    )


@pytest.mark.parametrize("accuracy", [0.0, 0.14, 0.99, 1.0])
def test_a_sweep_may_have_one_point_and_one_seed(accuracy: float) -> None:
    assert_inside(figures.sweep_points(["epochs"], {("1",): [accuracy]}).figure.axes[0])


def test_long_names_leave_room_for_their_rows() -> None:
    points = {("32-14-10-10-10-16", value, "0.001"): [0.99] for value in ("0.1", "0.2")}
    figure = figures.sweep_points(["filters", "dropout", "learning_rate"], points).figure
    names = figure.axes[0].get_yticklabels()
    assert [name.get_text().replace("\n", " ") for name in names] == [", ".join(point) for point in points]
    assert {len(name.get_text().splitlines()) for name in names} == {2}
    assert figure.get_figheight() == pytest.approx(0.8 + 2 * (2 * LINE + 6) / 72)
    FigureCanvasAgg(figure).draw()
    assert not overlaps([name.get_window_extent() for name in names])
    assert figure.axes[0].get_window_extent().width > 0.5 * figure.bbox.width


# Time.


def test_ways_have_their_seconds() -> None:
    names = {"fast": "The fast way", "absent": "No way", "slow": "The slow way"}
    picture = figures.seconds_of_ways(SECONDS, names)
    axis = picture.figure.axes[0]
    assert [name.get_text() for name in axis.get_yticklabels()] == ["The fast way", "The slow way"]
    for chapter, measured in SECONDS.items():
        own = colour(chapter.replace("_", " ")).upper()
        ((places, rows, _),) = [line for line in lines_of(axis, "o") if line[2] == own]
        shift = -0.2 if chapter == "approach_1" else 0.2
        assert (places, rows) == (
            [measured[way]["median"] for way in ("fast", "slow")],
            pytest.approx([shift, 1 + shift]),
        )
    ranges = [line for line in axis.lines if line.get_marker() == "None"]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in ranges] == [
        ([measured[way]["minimum"], measured[way]["maximum"]], pytest.approx([row + shift] * 2))
        for measured, shift in zip(SECONDS.values(), (-0.2, 0.2), strict=True)
        for row, way in enumerate(("fast", "slow"))
    ]
    assert {(colour_of(line), line.get_linewidth()) for line in ranges} == {(INK, 1.2)}
    assert legend_of(picture.figure) == {label: colour(label).upper() for label in ("approach 1", "approach 2")}
    assert_dots(axis, 2)
    low, high = 1.5, 7  # the fastest round of all, and the slowest
    room = (high / low) ** 0.05
    assert axis.get_xlim() == pytest.approx((low / room, high * room))
    assert picture.alt.endswith(
        "Medians in seconds: approach 1, The fast way 3 and The slow way 2. approach 2, The fast way 5 and The slow "
        "way 4."
    )


def test_a_way_that_one_network_lacks_is_left_out_there_only() -> None:
    seconds = {"approach_1": {"slow": SECONDS["approach_1"]["slow"]}, "approach_2": SECONDS["approach_2"]}
    picture = figures.seconds_of_ways(seconds, {"slow": "Slow", "fast": "Fast"})
    dots = [(places, [round(row) for row in rows]) for places, rows, _ in lines_of(picture.figure.axes[0], "o")]
    assert dots == [([2.0], [0]), ([4.0, 5.0], [0, 1])]
    assert picture.alt.endswith("approach 1, Slow 2. approach 2, Slow 4 and Fast 5.")


def test_stages_have_their_milliseconds() -> None:
    picture = figures.seconds_of_stages(STAGES, {"block_1_activation": 0.2})
    axis = picture.figure.axes[0]
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert names == ["block 1 activation", "block 2 output", "3 others"]
    stages, alone = axis.containers
    for bars, widths, height, label, face in (
        (stages, [0.5, 0.4, 0.303], 0.8, "the stage", figures.BLUE),
        (alone, [0.2, 0, 0], 0.4, "its arithmetic alone", INK.upper()),
    ):
        assert [bar.get_width() for bar in bars] == pytest.approx(widths)
        assert [bar.get_center()[1] for bar in bars] == pytest.approx([0, 1, 2])
        assert [bar.get_height() for bar in bars] == pytest.approx([height] * 3)
        assert {colour_of(bar) for bar in bars} == {face}
        assert bars.get_label() == label
    assert legend_of(picture.figure) == {"the stage": figures.BLUE, "its arithmetic alone": INK.upper()}
    axis = figures.seconds_of_stages({"one": 1.0, "two": 2.0}, {}).figure.axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["one", "two"]


def test_only_what_is_less_than_a_hundredth_and_has_no_arithmetic_is_among_the_others() -> None:
    milliseconds = {"at": 1.0, "below": 0.999, "compared": 0.001, "most": 98.0}
    axis = figures.seconds_of_stages(milliseconds, {"compared": 0.0005}).figure.axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["at", "compared", "most", "1 others"]


def test_rates_stand_at_their_workers() -> None:
    picture = figures.runs_an_hour({10: 460.0, 200: 8100.0}, {1: 60.0, 2: 115.0}, 46.0, 5e5, "approach 3")
    axis = picture.figure.axes[0]
    assert lines_of(axis, "o") == [([10, 200], [460.0, 8100.0], figures.BLUE)]
    assert lines_of(axis, "s") == [([1, 2], [60.0, 115.0], colour("approach 3").upper())]
    ideal, limit = [line for line in axis.lines if line.get_marker() == "None"]
    assert (list(ideal.get_xdata()), list(ideal.get_ydata()), colour_of(ideal)) == ([1, 200], [46, 9200], figures.GREY)
    assert (list(limit.get_ydata()), limit.get_linestyle(), colour_of(limit)) == ([5e5, 5e5], "--", INK)
    assert legend_of(picture.figure) == {
        "sleeping stand-ins": figures.BLUE, "trainings of approach 3": colour("approach 3").upper(),
        "stand-ins, ideal": figures.GREY, "runs that take no time": INK,
    }  # fmt: skip
    assert_dots(axis, 1)
    assert axis.get_xlim() == pytest.approx((1 / 200**0.05, 200**1.05))
    room = (5e5 / 46) ** 0.05
    assert axis.get_ylim() == pytest.approx((46 / room, 5e5 * room))
    assert picture.figure.get_figheight() == pytest.approx(3.6 + 2 * LINE / 72)
    assert picture.alt.endswith(
        "With 10 workers 460 and 200 workers 8,100 stand-ins. With 1 workers 60 and 2 workers 115 trainings. A line at "
        "500,000 is the rate of runs that take no time."
    )
    more = figures.runs_an_hour({10: 460.0}, {300: 60.0}, 46.0, 500.0, "a").figure.axes[0]
    assert more.get_xlim() == pytest.approx((1 / 300**0.05, 300**1.05))
    assert [46, 300 * 46] in [list(line.get_ydata()) for line in more.lines]


@pytest.mark.parametrize(
    ("real", "above"),
    [({1: 60.0, 2: 115.0}, True), ({1: 60.0, 2: 92.0}, False), ({1: 46.0}, False), ({1: 40.0, 2: 115.0}, False)],
)
def test_trainings_are_said_to_lie_above_the_line_if_all_do(real: dict[int, float], above: bool) -> None:
    caption = figures.runs_an_hour({10: 460.0}, real, 46.0, 5e5, "a").caption
    assert ("Trainings of a take less time than that, so they lie above the line." in caption) is above


def test_lanes_have_the_same_cells_in_two_orders() -> None:
    first, second = picture_of("lanes").figure.axes
    cells = [
        [(text.get_text(), colour_of(patch)) for text, patch in zip(axis.texts, axis.patches, strict=False)]
        for axis in (first, second)
    ]
    assert [name for name, _ in cells[0]][:6] == ["a1", "a2", "a3", "a4", "a5", "b1"]
    assert [name for name, _ in cells[1]][:5] == ["a1", "b1", "c1", "d1", "a2"]
    assert set(cells[0]) == set(cells[1]) and len(set(cells[0])) == 20
    faces = {"a": figures.BLUE, "b": figures.ORANGE, "c": figures.PINK, "d": figures.GREEN}
    assert {(name[0], face) for name, face in cells[0]} == set(faces.items())
    for axis in (first, second):
        assert [(patch.get_x(), patch.get_width(), patch.get_height()) for patch in axis.patches] == [
            (pytest.approx(place + 0.04), 0.92, 1) for place in range(20)
        ]
        assert [text.get_position() for text in axis.texts[:20]] == [(place + 0.5, 0.48) for place in range(20)]
        assert {(text.get_ha(), text.get_va(), text.get_color()) for text in axis.texts[:20]} == {
            ("center", "center", figures.ON_COLOUR)
        }
        assert (axis.get_xlim(), axis.get_ylim()) == ((0, 20), (-1.1, 1.1))
    assert len(first.texts) == 20
    arrow, name = second.texts[20:]
    assert (arrow.xyann, arrow.xy) == ((0.04, -0.25), (3.96, -0.25))  # below the first pixel of each image
    assert arrow.arrow_patch.get_arrowstyle().arrow == "<->"
    assert (name.get_text(), name.get_position(), name.get_ha(), name.get_va()) == (
        "one vector",
        (2, -0.4),
        "center",
        "top",
    )


# Weights.


def test_ranking_crosses_what_each_mask_prunes() -> None:
    kernels = kernels_of()
    both = masks_of(0.5), masks_of(0.25)
    picture = figures.ranking_comparison(kernels, *(dict(reversed(masks.items())) for masks in both))  # names decide
    for axis, masks in zip(picture.figure.axes, both, strict=True):
        for marker, shown, face in ((".", True, colour(UNPRUNED).upper()), ("x", False, figures.GREY)):
            ((places, heights, drawn_in),) = lines_of(axis, marker)
            chosen = [np.abs(kernel)[masks[name] == shown] for name, kernel in kernels.items()]
            assert heights == pytest.approx(list(np.concatenate(chosen)))
            assert Counter(np.round(places)) == {position: len(part) for position, part in enumerate(chosen, start=1)}
            distances = np.abs(np.array(places) - np.round(places))
            assert 0.25 < distances.max() <= 0.35 and drawn_in == face
        assert list(axis.get_xticks()) == [1, 2]
        styles = {(line.get_linestyle(), line.get_markersize(), line.get_rasterized()) for line in axis.lines}
        assert styles == {("None", 2.5, True)}
        assert_inside(axis)
    left, right = picture.figure.axes
    assert left.get_ylim() == right.get_ylim()
    kept = sum(int(mask.sum()) for mask in both[0].values())
    assert f"which {100 * (1 - kept / (36 + 288)):.1f}{NARROW}% of them" in picture.caption
    for masks, words in zip(
        both, ("common height is crossed out, {} of the columns", "each column: {} of them"), strict=True
    ):
        shares = [f"{100 * (1 - np.mean(masks[name])):.0f}{NARROW}%" for name in kernels]
        assert words.format(" and ".join(shares)) in picture.alt
    assert legend_of(picture.figure) == {"kept": colour(UNPRUNED).upper(), "pruned": figures.GREY}
    assert picture.figure.get_figheight() == pytest.approx(4.2 + LINE / 72)


def test_weights_that_are_zero_are_drawn_at_the_edge() -> None:
    kernels = {name: kernel * masks_of(0.5)[name] for name, kernel in kernels_of().items()}
    axis = figures.ranking_comparison(kernels, masks_of(0.5), masks_of(0.5)).figure.axes[0]
    ((_, heights, _),) = lines_of(axis, "x")
    assert heights == pytest.approx([1e-5] * len(heights))
    assert_inside(axis)


def test_survivors_are_those_of_their_run() -> None:
    runs = {round_label(number): run_of([0.9], weights=pruned(0.25 * number)) for number in range(3)}
    picture = figures.survivors_by_layer(runs)
    axis = picture.figure.axes[0]
    bars = iter(axis.patches)
    for label, run in runs.items():
        for position, kernel in enumerate(convolution_kernels(run.weights).values(), start=1):
            bar = next(bars)
            assert bar.get_height() == pytest.approx(100 * np.mean(kernel != 0))
            beside = (list(runs).index(label) - 1) * 0.8 / 3  # three bars share four fifths of the room
            assert bar.get_center()[0] == pytest.approx(position + beside) and bar.get_width() == pytest.approx(0.8 / 3)
            assert (colour_of(bar), to_hex(bar.get_edgecolor())) == (colour(label).upper(), INK)
    assert not list(bars)
    assert legend_of(picture.figure) == {label: colour(label).upper() for label in runs}
    assert axis.get_ylim() == (0, 105) and list(axis.get_xticks()) == [1, 2]
    assert picture.figure.get_figheight() == pytest.approx(3.6 + LINE / 72)
    for label, run in runs.items():
        shares = [f"{100 * np.mean(kernel != 0):.0f}{NARROW}%" for kernel in convolution_kernels(run.weights).values()]
        assert f" {label}: {' and '.join(shares)}." in picture.alt


def test_histograms_count_the_weights_that_are_left() -> None:
    weights = {"unpruned: before training": initial_weights(SMALL, 1)} | {
        f"{round_label(number)}: trained": pruned(0.25 * number) for number in (1, 2)
    }
    picture = figures.weight_histograms(weights)
    for axis, (label, arrays) in zip(picture.figure.axes, weights.items(), strict=False):
        left = np.concatenate([kernel[kernel != 0] for kernel in convolution_kernels(arrays).values()])
        assert axis.get_title() == f"{label}\n{len(left)} weights"
        assert {colour_of(bar) for bar in axis.patches} == {colour(label.partition(":")[0]).upper()}
        everything = [kernel[kernel != 0] for each in weights.values() for kernel in convolution_kernels(each).values()]
        limit = np.quantile(np.append(np.abs(np.concatenate(everything)), 0), 0.995)
        assert [axis.patches[0].get_x(), axis.patches[-1].get_x() + axis.patches[-1].get_width()] == pytest.approx(
            [-limit, limit], rel=1e-5
        )
        edges = np.linspace(-limit, limit, 81)
        counts = np.histogram(np.clip(left, -limit, limit), edges)[0]
        assert counts[[0, -1]].any()
        assert [bar.get_height() for bar in axis.patches] == list(counts)
        half = f"{np.median(np.abs(left)):.2g}"
        assert f" {label}: {len(left)} weights, half of them within ±{half}." in picture.alt
    assert [axis.axison for axis in picture.figure.axes] == [True, True, True, False]
    assert picture.figure.get_figheight() == pytest.approx(0.3 + 2 * 2.3)
    assert picture.figure.get_supxlabel() == "weight" and picture.figure.get_supylabel() == "number of weights"
    assert [axis.get_subplotspec().get_geometry()[:3] for axis in picture.figure.axes] == [(2, 2, n) for n in range(4)]
    five = figures.weight_histograms({f"{number}: trained": pruned(0.5) for number in range(5)}).figure
    assert [axis.axison for axis in five.axes] == [True] * 5 + [False]
    assert five.axes[0].get_subplotspec().get_geometry()[:2] == (3, 2)
    assert five.get_figheight() == pytest.approx(0.3 + 3 * 2.3)
    one = picture_of("weight_histograms").figure
    assert len(one.axes) == 1 and one.get_figheight() == pytest.approx(0.3 + 2.3)
    none = {name: 0 * array for name, array in pruned(0.5).items()}
    assert "unpruned: 0 weights." in figures.weight_histograms({"unpruned": none}).alt
