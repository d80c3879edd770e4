"""The figures of the chapters.

Every drawing function returns a `Picture`, with a caption and a text for those who cannot see it that follow from what
was drawn; `caption=` and `alt=` put other words in their place. A network has the same colour on every page.
Accuracies are given as 0 to 1 and drawn in per cent.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from smallcnn.report.picture import FONT_SIZE, INK, INKED, WIDTH, Picture, drawing  # isort: skip, it readies Matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from smallcnn.architecture import CLASSES, IMAGE_SIZE, TARGET, Architecture, Dropout, Shape, convolution_kernels
from smallcnn.report.tables import percent
from smallcnn.study import GRADUAL, UNPRUNED, colour

if TYPE_CHECKING:
    from smallcnn.config import TrainingRun
    from smallcnn.data import Dataset

POINTS = 72  # in an inch; one is a unit of the SVG
LINE = 1.4 * FONT_SIZE  # points: the height of a line of text
ON_COLOUR = "#111111"  # for text on the colours below, whatever the colour of the page's text
BLUE, ORANGE, PINK, GREEN, GREY = "#56B4E9", "#E69F00", "#CC79A7", "#44AA99", "#7A7A7A"  # of what is no network
AT_TARGET: dict[str, Any] = {"color": INK, "linewidth": 0.8}
STROKES: dict[str, Any] = {"linestyle": "none", "markersize": 14, "markeredgewidth": 1.5}


@drawing
def digit_grid(images: np.ndarray, columns: int, titles: Sequence[str] | None = None) -> Picture:
    """Draws uint8 images (n, 28, 28) row by row in the colour of the text, each with its title if there are any."""
    rows = max(1, -(-len(images) // columns))
    points = WIDTH * POINTS / (columns * (IMAGE_SIZE + 3))  # of a pixel, with three between images
    above = 0 if titles is None else round(1.6 * FONT_SIZE / points)  # pixels for a title
    cells = np.pad(images, ((0, rows * columns - len(images)), (above, 3), (1, 2)))
    height, width = cells.shape[1:]
    sheet = cells.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)
    figure = Figure(figsize=(WIDTH, len(sheet) * points / POINTS))
    axis = figure.add_axes((0, 0, 1, 1))
    white_ink = ListedColormap([(1, 1, 1, alpha) for alpha in np.linspace(0, 1, 256)])
    axis.imshow(sheet, cmap=white_ink, vmin=0, vmax=255, interpolation="none", aspect="auto", gid=INKED)
    for place, (_, title) in enumerate(() if titles is None else zip(images, titles, strict=True)):
        row, column = divmod(place, columns)
        axis.text(column * width + 1 + IMAGE_SIZE / 2, row * height + above - 1, title, ha="center", va="bottom")
    axis.axis("off")
    alt = f"{_count(len(images), 'handwritten digit')}, {columns} a row"
    return Picture(figure, "Handwritten digits.", f"{alt}, with the titles {', '.join(titles)}." if titles else alt)


def first_of_each_class(dataset: Dataset, count: int) -> np.ndarray:
    """The first `count` images of every class, class by class: uint8 (10 · count, 28, 28)."""
    return np.concatenate([dataset.images[dataset.labels == digit][:count] for digit in range(CLASSES)])


@drawing
def class_counts(train_set: Dataset, test_set: Dataset) -> Picture:
    """Draws how many images of each digit both sets hold, with a line at a tenth of the set."""
    figure, axes = _figure(3.2, columns=2)
    alt = "Two bar charts of the number of images of each digit, with a line at a tenth."
    for axis, dataset, name in zip(axes, (train_set, test_set), ("training set", "test set"), strict=True):
        counts = np.bincount(dataset.labels, minlength=CLASSES)
        axis.bar(range(CLASSES), counts, color=BLUE, edgecolor=INK)
        axis.axhline(len(dataset.labels) / CLASSES, color=INK, linestyle="--")
        axis.set(title=name, xlabel="digit", xticks=range(CLASSES))
        axis.grid(axis="x", visible=False)
        alt += f" Of {len(dataset.labels):,} images of the {name} most are a {counts.argmax()}, {counts.max():,}, and "
        alt += f"fewest a {counts.argmin()}, {counts.min():,}."
    axes[0].set_ylabel("images")
    return Picture(figure, "Images of each digit; the dashed line is a tenth of the set.", alt)


@drawing
def architecture_diagram(architecture: Architecture) -> Picture:
    """Draws the network in reading order: a box is the output of a layer, as high as its rows, as wide as its channels.

    Batch normalisation and activations are left out; dropout stands at the box that it works on.
    """
    boxes = _boxes(architecture)
    columns = -(-len(boxes) // -(-len(boxes) // 4))  # at most four in a row, and as many in each row as can be
    cell = WIDTH * POINTS / columns
    widest = max(8, *(shape[2] for _, shape, _ in boxes if len(shape) == 3))  # in channels
    sizes = [  # width and height in points; what has no rows is always alike
        (max(2.5, 70 * shape[2] / widest), 2.3 * shape[0]) if len(shape) == 3 else (7, 40) for _, shape, _ in boxes
    ]
    shapes = ["×".join(f"{number:,}" for number in shape) for _, shape, _ in boxes]
    figure = Figure()
    axis = figure.add_axes((0, 0, 1, 1))
    bottom = 0.0
    for start in range(0, len(boxes), columns):
        row = range(start, min(start + columns, len(boxes)))
        top = bottom + LINE * max(len(boxes[place][0]) for place in row) + 8
        bottom = top + max(sizes[place][1] for place in row)
        middle = (top + bottom) / 2
        for place in row:
            (lines, _, face), (width, height) = boxes[place], sizes[place]
            centre = (place - start + 0.5) * cell
            corner = (centre - width / 2, middle - height / 2)
            axis.add_patch(Rectangle(corner, width, height, facecolor=face, edgecolor=INK))
            axis.text(centre, top - 4, "\n".join(lines), ha="center", va="bottom", linespacing=1.1)
            axis.text(centre, bottom + 4, shapes[place], ha="center", va="top")
            if place + 1 < len(boxes):  # an arrow to the next box, or to the end of the row
                end = centre + (cell / 2 if place == row[-1] else cell - sizes[place + 1][0] / 2)
                _arrow(axis, (centre + width / 2 + 5, middle), (end - 5, middle))
        bottom += LINE + 8
    figure.set_size_inches(WIDTH, bottom / POINTS)
    axis.set(xlim=(0, WIDTH * POINTS), ylim=(bottom, 0))
    axis.axis("off")
    caption = (
        "The network. A box is the output of a layer, as high as its image has rows and as wide as it has channels; "
        "what has neither is always alike. Batch normalisation and activations change no shape and are left out."
    )
    steps = "; ".join(f"{' '.join(lines)}, {shape}" for (lines, *_), shape in zip(boxes, shapes, strict=True))
    return Picture(figure, caption, f"Boxes from left to right, row by row, joined by arrows: {steps}.")


def _boxes(architecture: Architecture) -> list[tuple[list[str], Shape, str]]:
    """The boxes of the diagram: the lines above each, the shape of its output, its colour."""
    boxes: list[tuple[list[str], Shape, str]] = [(["image"], (IMAGE_SIZE, IMAGE_SIZE, 1), GREY)]
    for placed in architecture.placed:
        layer = placed.layer
        lines = textwrap.wrap(layer.description, 14)  # characters that fit a quarter of the figure
        if isinstance(layer, Dropout):
            boxes[-1][0].extend(lines if layer.rate else [])
        elif layer.kind not in ("activation", "batch_normalisation"):
            face = BLUE if layer.kind == "convolution" else ORANGE if "pooling" in layer.kind else GREY
            boxes.append((lines, placed.output_shape, face))
    return boxes


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], style: str = "->") -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": style, "color": INK, "shrinkA": 0, "shrinkB": 0})


@drawing
def learning_curves(runs: Sequence[TrainingRun], label: str) -> Picture:
    """Draws accuracy and loss an epoch: the first run in full, the test curves of the others faint."""
    figure, axes = _figure(3.4, columns=2)
    first, *others = runs
    falls = first.history.index[first.history["learning_rate"].diff() < 0]
    for axis, quantity, factor in zip(axes, ("accuracy", "loss"), (100, 1), strict=True):
        for place, run in enumerate(others):
            name = "_" * place + "test, other seeds"  # legends pass over what starts so: it is in them once
            _plot_epochs(axis, factor * run.history[f"test_{quantity}"], colour(label), label=name, alpha=0.5)
        _plot_epochs(axis, factor * first.history[f"train_{quantity}"], INK, linestyle="--", label="training")
        test = factor * first.history[f"test_{quantity}"]
        _plot_epochs(axis, test, colour(label), first.best_epoch, label=f"test, seed {first.config.seed}")
        for place, epoch in enumerate(falls):
            axis.axvline(epoch - 0.5, color=GREY, linestyle=":", label="_" * place + "learning rate falls")
    axes[0].set_title("accuracy (%)")
    axes[1].set_title("cross-entropy loss (log scale)")
    too_low = _zoom(axes[0], [*(run.history["test_accuracy"] for run in runs), first.history["train_accuracy"]])
    losses = [*(run.history["test_loss"] for run in runs), first.history["train_loss"]]
    _set_log_scale(axes[1].yaxis, np.concatenate(losses))
    _add_legend(figure, axes[0])

    dropout = any(isinstance(layer, Dropout) and layer.rate for layer in first.config.architecture.layers)
    caption = (
        f"Learning curves of {label}. Training accuracy and loss are averages over the epoch, while the network is "
        f"still learning{' and with dropout on' if dropout else ''}. "
        + (f"Fainter lines are the test curves of {_count(len(others), 'other seed')}. " if others else "")
        + f"The circle is the epoch whose weights are kept, {TARGET_LINE}.{too_low}"
    )
    start, end = first.history.iloc[0], first.history.iloc[-1]
    alt = (
        f"Two panels against epochs, {label} with seed {first.config.seed}. Test accuracy is "
        f"{percent(start['test_accuracy'])} at first, {percent(first.best_test_accuracy)} after epoch "
        f"{first.best_epoch}, which a circle marks, and {percent(end['test_accuracy'])} at last, after epoch "
        f"{first.epochs_run}. Test loss goes from {start['test_loss']:.2g} to {end['test_loss']:.2g}, training loss "
        f"from {start['train_loss']:.2g} to {end['train_loss']:.2g}. The learning rate has "
        f"{_count(len(falls), 'fall')}."
    )
    return Picture(figure, caption, alt)


@drawing
def compare_learning_curves(runs: Mapping[str, TrainingRun]) -> Picture:
    """Draws the test accuracy an epoch of several networks, by their labels, the kept epoch of each marked."""
    figure, axis = _figure(4)
    for label, run in runs.items():
        _plot_epochs(axis, 100 * run.history["test_accuracy"], colour(label), run.best_epoch, label=label)
    axis.set_ylabel("test accuracy (%)")
    too_low = _zoom(axis, [run.history["test_accuracy"] for run in runs.values()])
    _add_legend(figure, axis)
    seeds = {run.config.seed for run in runs.values()}
    caption = f"Test accuracy after every epoch, {f'seed {min(seeds)}' if len(seeds) == 1 else 'one seed each'}. "
    caption += f"The circle is the epoch whose weights are kept, {TARGET_LINE}.{too_low}"
    alt = "Test accuracy against epochs, a curve a network."
    for label, run in runs.items():
        alt += f" {label}: {percent(run.best_test_accuracy)} after epoch {run.best_epoch} of {run.epochs_run}."
    return Picture(figure, caption, alt)


def _plot_epochs(axis: Axes, values: Any, line_colour: str, kept: int = 0, **style: Any) -> None:
    """Plots a column of a history against its epochs, a single one as a point, with a dot at the epoch that is kept."""
    axis.plot(values.index, values, color=line_colour, marker="o" if len(values) == 1 else "", **style)
    if kept:
        axis.plot(kept, values[kept], **_dot(line_colour))
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axis.margins(x=0.02)


def _zoom(axis: Axes, curves: Sequence[Any]) -> str:
    """Shows the accuracies among which most epochs end, the bests and the target; returns what is too low, in words."""
    tops = [TARGET, *map(max, curves)]
    every = np.concatenate(curves)
    low, high = min(np.quantile(every, 0.15), *tops), max(tops)
    room = max(0.001, 0.05 * (high - low))
    axis.set_ylim(100 * (low - room), 100 * (high + room))
    axis.axhline(100 * TARGET, **AT_TARGET)
    below = int(np.count_nonzero(every < low - room))
    return f" Too low for the picture: {_count(below, 'point')} of the curves." if below else ""


@drawing
def parameters_against_accuracy(points: Mapping[str, tuple[int, Sequence[float]]]) -> Picture:
    """Draws networks, by label, at their trainable parameters and the best test accuracies of seeds, and their mean."""
    figure, axis = _figure(4)
    means = []
    for label, (parameters, accuracies) in points.items():
        values = 100 * np.array(accuracies)
        axis.plot([parameters] * len(values), values, marker="_", color=colour(label), **STROKES)
        style = _dot(colour(label))
        if label == GRADUAL:  # as many parameters as a round of pruning, so it may lie exactly behind that
            style = STROKES | {"marker": "D", "fillstyle": "none", "color": colour(label), "markeredgewidth": 2}
        axis.plot(parameters, values.mean(), label=label, **style)
        means.append(f"{label} at {parameters:,} and {_mean(accuracies)}")
    axis.axhline(100 * TARGET, **AT_TARGET)
    _set_log_scale(axis.xaxis, [parameters for parameters, _ in points.values()])
    axis.set(xlabel="trainable parameters (log scale)", ylabel="best test accuracy (%)")
    _add_legend(figure, axis)
    caption = "Trainable parameters against best test accuracy. A dash is a seed, the larger mark the mean"
    alt = f"Trainable parameters on a log scale against best test accuracy. Means: {'; '.join(means)}."
    return Picture(figure, f"{caption}, {TARGET_LINE}.", alt)


@drawing
def paired_accuracies(pairs: Mapping[str, Mapping[str, Sequence[float]]]) -> Picture:
    """Draws for each network the best test accuracies of seeds with both engines, those of a seed joined by a line."""
    figure, axes = _figure(0.6 + 1.2 * len(pairs), len(pairs), sharex=True, squeeze=False)
    means = []
    for axis, (label, engines) in zip(axes.flat, pairs.items(), strict=True):
        for values in zip(*engines.values(), strict=True):
            axis.plot(100 * np.array(values), range(len(values)), "o-", color=colour(label), markeredgecolor=INK)
        names = [{"halide": "Halide", "tensorflow": "TensorFlow"}.get(engine, engine) for engine in engines]
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.6, -0.4)
        axis.set_title(label, loc="left")
        axis.axvline(100 * TARGET, **AT_TARGET)
        shares = [f"{_mean(values)} with {name}" for name, values in zip(names, engines.values(), strict=True)]
        means.append(f"{label}, {_join(shares)}")
    axes[-1, 0].set_xlabel("best test accuracy (%)")
    caption = f"Best test accuracies of the same seeds with each engine. Slanting lines join a seed's, {TARGET_LINE}."
    alt = f"Best test accuracies, {_count(len(pairs), 'panel')} with a row for each engine. Means: {'; '.join(means)}."
    return Picture(figure, caption, alt)


@drawing
def sweep_points(axes: Sequence[str], points: Mapping[tuple[str, ...], Sequence[float]]) -> Picture:
    """Draws the points of a sweep of the parameters `axes`: the best test accuracies of the seeds, and their mean."""
    names = [", ".join(point) for point in points]
    figure, axis = _named_rows(names)
    for row, accuracies in enumerate(points.values()):
        axis.plot(100 * np.array(accuracies), [row] * len(accuracies), marker="|", color=BLUE, **STROKES)
        axis.plot(100 * np.mean(accuracies), row, **_dot(BLUE))
    axis.axvline(100 * TARGET, **AT_TARGET)
    axis.set_xlabel("best test accuracy (%)")
    varied = ", ".join(axes).replace("_", " ")
    axis.set_title(varied, loc="left")
    caption = f"Best test accuracy. A stroke is a seed, the dot their mean, {TARGET_LINE}."
    means = [f"{name}: {_mean(values)}" for name, values in zip(names, points.values(), strict=True)]
    return Picture(figure, caption, f"Best test accuracies, a row for each value of {varied}. Means: {_join(means)}.")


@drawing
def seconds_of_ways(seconds: Mapping[str, Mapping[str, Mapping[str, float]]], names: Mapping[str, str]) -> Picture:
    """Draws median, minimum and maximum of the seconds an epoch, by chapter and way to train; `names` are of ways."""
    ways = [way for way in names if any(way in measured for measured in seconds.values())]
    figure, axis = _named_rows([names[way] for way in ways])
    alt = "Dots for the seconds that an epoch takes on a log scale, a row for each way to train. Medians in seconds:"
    for (chapter, measured), shift in zip(seconds.items(), np.linspace(-0.2, 0.2, len(seconds)), strict=True):
        label = chapter.replace("_", " ")
        rows = {ways.index(way) + shift: measured[way] for way in ways if way in measured}
        for row, times in rows.items():
            axis.plot([times["minimum"], times["maximum"]], [row, row], color=INK, linewidth=1.2)
        axis.plot([times["median"] for times in rows.values()], list(rows), label=label, **_dot(colour(label)))
        medians = [f"{names[way]} {measured[way]['median']:.2g}" for way in ways if way in measured]
        alt += f" {label}, {_join(medians)}."
    _set_log_scale(axis.xaxis, np.concatenate([line.get_xdata() for line in axis.lines]))
    axis.set_xlabel("seconds an epoch (log scale)")
    _add_legend(figure, axis)
    caption = "Seconds an epoch, test pass included: medians, and from the fastest to the slowest round."
    return Picture(figure, caption, alt)


@drawing
def seconds_of_stages(milliseconds: Mapping[str, float], arithmetic: Mapping[str, float]) -> Picture:
    """Draws the time of the stages of a training step, and in it what their multiply-adds alone would take.

    What takes less than a hundredth of the step and has no multiply-adds to compare with is one bar, the last.
    """
    few = 0.01 * sum(milliseconds.values())
    small = {name for name, value in milliseconds.items() if name not in arithmetic and (value < few or name == "rest")}
    shown = {name: value for name, value in milliseconds.items() if name not in small}
    if small:
        shown[f"{len(small)} others"] = sum(milliseconds[name] for name in small)
    names = [name.replace("_", " ") for name in shown]
    figure, axis = _named_rows(names)
    axis.barh(range(len(shown)), list(shown.values()), color=BLUE, label="the stage")
    alone = [arithmetic.get(name, 0) for name in shown]
    axis.barh(range(len(shown)), alone, height=0.4, color=INK, label="its arithmetic alone")
    axis.set_xlabel("milliseconds a step, one core")
    axis.grid(axis="y", visible=False)
    _add_legend(figure, axis)
    caption = "The stages of a training step on one core, and what their multiply-adds alone would take."
    bars = [f"{name} {value:.2g}" for name, value in zip(names, shown.values(), strict=True)]
    return Picture(figure, caption, f"Bars of the milliseconds that the stages of a training step take: {_join(bars)}.")


@drawing
def runs_an_hour(
    stand_ins: Mapping[int, float], real: Mapping[int, float], ideal: float, limit: float, label: str
) -> Picture:
    """Draws runs an hour by number of workers, of sleeping stand-ins and of trainings of `label`, both on log scales.

    `ideal` is the rate of one worker if nothing but the run took time, `limit` the highest that the scheduler passes.
    """
    figure, axis = _figure(3.6)
    workers = np.array([1, max(*stand_ins, *real)])
    axis.plot(list(stand_ins), list(stand_ins.values()), label="sleeping stand-ins", **_dot(BLUE))
    squares = _dot(colour(label)) | {"marker": "s"}
    axis.plot(list(real), list(real.values()), label=f"trainings of {label}", **squares)
    axis.plot(workers, ideal * workers, color=GREY, label="stand-ins, ideal")
    axis.axhline(limit, color=INK, linestyle="--", label="runs that take no time")
    _set_log_scale(axis.xaxis, [1, *stand_ins, *real])
    _set_log_scale(axis.yaxis, [*stand_ins.values(), *real.values(), limit, *(ideal * workers)])
    axis.set(xlabel="workers (log scale)", ylabel="runs an hour (log scale)")
    _add_legend(figure, axis)
    caption = "Runs an hour against workers. The grey line is what stand-ins would reach if only their sleep took time."
    if all(rate > ideal * count for count, rate in real.items()):
        caption += f" Trainings of {label} take less time than that, so they lie above the line."
    alt = "Runs an hour against workers on two log scales."
    for name, rates in (("stand-ins", stand_ins), ("trainings", real)):
        alt += f" With {_join([f'{count:,} workers {rate:,.0f}' for count, rate in rates.items()])} {name}."
    alt += f" A line at {limit:,.0f} is the rate of runs that take no time."
    return Picture(figure, caption, alt)


@drawing
def lanes() -> Picture:
    """Draws how sixteen images lie in memory: their pixels side by side, so that a vector holds one pixel of each."""
    figure, axes = _figure(2.6, 2)
    faces = {"a": BLUE, "b": ORANGE, "c": PINK, "d": GREEN}
    orders = {
        "one image after the other": [image + pixel for image in faces for pixel in "12345"],
        "side by side": [image + pixel for pixel in "12345" for image in faces],
    }
    for axis, (title, cells) in zip(axes, orders.items(), strict=True):
        for place, cell in enumerate(cells):
            axis.add_patch(Rectangle((place + 0.04, 0), 0.92, 1, facecolor=faces[cell[0]]))
            axis.text(place + 0.5, 0.48, cell, ha="center", va="center", color=ON_COLOUR)
        axis.set(xlim=(0, len(cells)), ylim=(-1.1, 1.1))
        axis.set_title(title, loc="left")
        axis.axis("off")
    _arrow(axes[1], (0.04, -0.25), (3.96, -0.25), "<->")
    axes[1].text(2, -0.4, "one vector", ha="center", va="top")
    caption = (
        "Four images of five pixels in memory. Frameworks keep the pixels of an image together; here a vector holds "
        "the same pixel of several images (sixteen of them, not four)."
    )
    alt = (
        "Two rows of coloured cells, the pixels of images a to d. First all pixels of a come before those of b; below, "
        "the first pixels of all four come first, marked as one vector, then their second pixels."
    )
    return Picture(figure, caption, alt)


@drawing
def ranking_comparison(
    kernels: Mapping[str, np.ndarray], global_masks: Mapping[str, np.ndarray], layer_masks: Mapping[str, np.ndarray]
) -> Picture:
    """Draws the weights of each layer by magnitude; what global and what per-layer ranking would prune is crossed.

    Masks say what is kept, in the shape of the kernel of the same name. Weights below 0.00001 are drawn there.
    """
    figure, axes = _figure(4.2, columns=2, sharey=True)
    columns = np.repeat(range(1, len(kernels) + 1), [kernel.size for kernel in kernels.values()])
    places = columns + np.random.default_rng(0).uniform(-0.35, 0.35, len(columns))
    magnitudes = np.maximum(1e-5, np.concatenate([np.abs(kernel).ravel() for kernel in kernels.values()]))
    titles = ("one ranking\nfor all layers", "a ranking\nfor each layer")
    shares = []
    for axis, masks, title in zip(axes, (global_masks, layer_masks), titles, strict=True):
        kept = np.concatenate([masks[name].ravel() for name in kernels]).astype(bool)
        style = {"linestyle": "none", "markersize": 2.5, "rasterized": True}  # thousands of marks
        axis.plot(places[kept], magnitudes[kept], marker=".", color=colour(UNPRUNED), label="kept", **style)
        axis.plot(places[~kept], magnitudes[~kept], marker="x", color=GREY, label="pruned", **style)
        axis.set(title=title, xlabel="convolution", xticks=range(1, len(kernels) + 1))
        axis.grid(axis="x", visible=False)
        shares.append(_join([percent(1 - masks[name].mean(), 0) for name in kernels]))
    _set_log_scale(axes[0].yaxis, magnitudes)
    axes[0].set_ylabel("magnitude (log scale)")
    _add_legend(figure, axes[0], markerscale=3)
    sparsity = 1 - sum(mask.sum() for mask in global_masks.values()) / len(columns)
    caption = (
        f"The kernel weights by convolution, and which {percent(sparsity, 1)} of them would be pruned at once, by one "
        "ranking of all layers or by one for each."
    )
    alt = (
        "Two panels, the magnitude of every kernel weight on a log scale, a column for each convolution. Left, what "
        f"lies below one common height is crossed out, {shares[0]} of the columns. Right, this height is another in "
        f"each column: {shares[1]} of them."
    )
    return Picture(figure, caption, alt)


@drawing
def survivors_by_layer(runs: Mapping[str, TrainingRun]) -> Picture:
    """Draws the share of each convolution's kernel weights that is not zero in each run, by its label."""
    figure, axis = _figure(3.6)
    width = 0.8 / len(runs)
    alt = "Bars of the share of kernel weights left in each convolution, first to last."
    for offset, (label, run) in enumerate(runs.items()):
        shares = [float(np.mean(kernel != 0)) for kernel in convolution_kernels(run.weights).values()]
        layers = np.arange(1, len(shares) + 1)
        places = layers + (offset - (len(runs) - 1) / 2) * width
        axis.bar(places, 100 * np.array(shares), width, color=colour(label), edgecolor=INK, label=label)
        alt += f" {label}: {_join([percent(share, 0) for share in shares])}."
    axis.set(xlabel="convolution", ylabel="kernel weights left (%)", xticks=layers, ylim=(0, 105))
    axis.grid(axis="x", visible=False)
    _add_legend(figure, axis)
    return Picture(figure, "Kernel weights left in each convolution.", alt)


@drawing
def weight_histograms(weights: Mapping[str, Mapping[str, np.ndarray]]) -> Picture:
    """Draws how the kernel weights of each network that are not zero are distributed, all layers together.

    What comes before a colon in the label of a network decides its colour.
    """
    columns = min(2, len(weights))
    rows = -(-len(weights) // columns)
    figure, axes = _figure(0.3 + 2.3 * rows, rows, columns, squeeze=False)
    values = {
        label: np.concatenate([kernel[kernel != 0] for kernel in convolution_kernels(arrays).values()])
        for label, arrays in weights.items()
    }
    limit = np.quantile(np.abs(np.concatenate([*values.values(), [1e-9]])), 0.995)  # one more, if there is none
    alt = "Histograms of the kernel weights that are not zero."
    for axis in axes.flat[len(weights) :]:
        axis.axis("off")
    for axis, (label, shown) in zip(axes.flat, values.items(), strict=False):
        axis.hist(np.clip(shown, -limit, limit), np.linspace(-limit, limit, 81), color=colour(label.partition(":")[0]))
        axis.set_title(f"{label}\n{_count(len(shown), 'weight')}")
        half = f", half of them within ±{np.median(np.abs(shown)):.2g}" if len(shown) else ""
        alt += f" {label}: {_count(len(shown), 'weight')}{half}."
    figure.supxlabel("weight")
    figure.supylabel("number of weights")
    caption = (
        "Kernel weights that are not zero; those beyond the ends count in the outermost bars. Vertical scales differ."
    )
    return Picture(figure, caption, alt)


def _figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of this height in inches and its axes, as Matplotlib's `subplots` has them."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def _named_rows(names: Iterable[str]) -> tuple[Figure, Axes]:
    """A figure with a row at y = 0, 1, … from the top for each name."""
    shown = [textwrap.fill(name, 28, break_on_hyphens=False) for name in names]
    height = LINE * max(name.count("\n") + 1 for name in shown) + 6
    figure, axis = _figure(0.8 + height / POINTS * len(shown))
    axis.set_yticks(range(len(shown)), shown)
    axis.set_ylim(len(shown) - 0.5, -0.5)
    return figure, axis


def _dot(face: str) -> dict[str, Any]:
    return {"linestyle": "none", "marker": "o", "color": face, "markeredgecolor": INK, "markersize": 9, "zorder": 3}


def _add_legend(figure: Figure, axis: Axes, **options: Any) -> None:
    """A legend below the axes; the figure grows by its height, so the axes keep theirs."""
    handles, labels = axis.get_legend_handles_labels()
    columns = 3 if max(map(len, labels)) <= 16 else 2  # characters that fit a third of the width
    figure.set_figheight(figure.get_figheight() + LINE / POINTS * -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, **options)


def _set_log_scale(axis: Axis, values: Iterable[float]) -> None:
    """A log scale around the positive values, at least a factor of four from end to end."""
    positive = [value for value in values if 0 < value < np.inf] or [1.0]
    low, high = min(positive), max(positive)
    room = max((high / low) ** 0.05, (4 * low / high) ** 0.5)
    low, high = low / room, high * room
    name = "x" if isinstance(axis, XAxis) else "y"
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    digits = (1, 2, 3, 5, 7) if high < 10 * low else (1, 2, 5) if high < 100 * low else (1,)
    axis.set_major_locator(LogLocator(subs=digits))
    axis.set_major_formatter("{x:,.10g}")
    axis.set_minor_locator(NullLocator())


def _mean(shares: Sequence[float]) -> str:
    return percent(float(np.mean(shares)))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _join(words: Sequence[str]) -> str:
    """Words with commas, and an "and" before the last."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


TARGET_LINE = f"the line marks {percent(TARGET, 0)}"
