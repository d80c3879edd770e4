"""The figures of the chapters. A network has the same colour on every page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from matplotlib_inline.backend_inline import set_matplotlib_formats

from smallcnn.data import Dataset
from smallcnn.models import CLASSES, IMAGE_SIZE, TARGET, Architecture, convolution_kernels, layers
from smallcnn.training import TrainingRun

# From the palette of Okabe and Ito (2008), which colour-blind readers can tell apart.
COLOURS = {
    "approach 1": "#0072B2",
    "approach 2": "#D55E00",
    "approach 3": "#009E73",
    "unpruned": "#D55E00",
    "pruned, round 1": "#CC79A7",
    "pruned, round 2": "#332288",
    "pruned gradually": "#7A7A7A",
}
MORE_COLOURS = ("#56B4E9", "#E69F00", "#117733", "#882255", "#44AA99", "#999933")
INK = "#222222"


def use_book_style() -> None:
    """Sets how figures look, and that the same figure is the same file each time it is drawn."""
    set_matplotlib_formats("svg", metadata={"Date": None}, facecolor="white")
    plt.rcParams.update(
        {
            "figure.figsize": (7, 4),
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "font.size": 11.5,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#dddddd",
            "axes.axisbelow": True,
            "legend.frameon": False,
            "svg.hashsalt": "smallcnn",
        }
    )


def to_svg(figure: Figure) -> bytes:
    """The figure as an SVG file, the same bytes for the same figure."""
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def colour(label: str) -> str:
    """The colour of a network, by the name that it has on every page."""
    return COLOURS.get(label) or MORE_COLOURS[sum(map(ord, label)) % len(MORE_COLOURS)]


def digit_grid(images: np.ndarray, columns: int, titles: Sequence[str] | None = None) -> Figure:
    """Draws uint8 images (n, 28, 28) row by row, dark ink on white, each with a title if there are titles."""
    rows = -(-len(images) // columns)
    height = 0.72 if titles is None else 1.05
    figure, axes = plt.subplots(rows, columns, figsize=(7, rows * height), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for position, image in enumerate(images):
        axis = axes.flat[position]
        axis.imshow(image, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
        if titles is not None:
            axis.set_title(titles[position], fontsize=10)
    return figure


def first_of_each_class(dataset: Dataset, count: int) -> np.ndarray:
    """The first `count` images of every class, class by class."""
    return np.concatenate([dataset.images[dataset.labels == digit][:count] for digit in range(CLASSES)])


def class_counts(train_set: Dataset, test_set: Dataset) -> Figure:
    """Draws how many images of each digit both sets hold, with a line at a tenth of the set."""
    figure, axes = plt.subplots(1, 2, figsize=(7, 3))
    for axis, dataset, name in zip(axes, (train_set, test_set), ("training set", "test set"), strict=True):
        axis.bar(range(CLASSES), np.bincount(dataset.labels, minlength=CLASSES), color="#56B4E9", edgecolor=INK)
        axis.axhline(len(dataset.labels) / CLASSES, color=INK, linestyle="--")
        axis.set(title=name, xlabel="digit", ylabel="images", xticks=range(CLASSES))
        axis.grid(axis="x", visible=False)
    return figure


def architecture_diagram(architecture: Architecture) -> Figure:
    """Draws the network from left to right: a box is the output of a layer, as high as its image, as wide as deep."""
    steps: list[tuple[str, tuple[int, ...]]] = [("image", (IMAGE_SIZE, IMAGE_SIZE, 1))]
    for layer in layers(architecture):
        if "normalisation" in layer.kind:
            continue
        short = layer.kind.split(",")[0].replace("convolution", "conv.").replace("global average pooling", "average")
        if "dropout" in short:
            steps[-1] = (f"{steps[-1][0]}\n{short}", steps[-1][1])
        else:
            steps.append((short, layer.output_shape))
    figure, axis = plt.subplots(figsize=(7, 3.4))
    left = 0.0
    for name, shape in steps:
        height = shape[0] if len(shape) == 3 else 10
        width = 1.5 + (shape[2] if len(shape) == 3 else 1) * 0.35
        face = "#56B4E9" if "conv" in name else "#E69F00" if "pool" in name else "#cccccc"
        axis.add_patch(plt.Rectangle((left, -height / 2), width, height, facecolor=face, edgecolor=INK))
        text = "×".join(map(str, shape))
        axis.text(left + width / 2, -height / 2 - 1, text, ha="center", va="top", fontsize=8)
        axis.text(
            left + width / 2, 16.5, name, ha="center", va="bottom", fontsize=9, rotation=45, rotation_mode="anchor"
        )
        left += width + 5.5
        axis.annotate("", (left - 0.4, 0), (left - 5.1, 0), arrowprops={"arrowstyle": "->", "color": INK})
    axis.texts[-1].remove()  # the last arrow leads nowhere
    axis.set(xlim=(-2, left + 4), ylim=(-18, 30))
    axis.axis("off")
    return figure


def learning_curves(runs: Sequence[TrainingRun], label: str) -> Figure:
    """Draws accuracy and loss an epoch: the first run in full, the test curves of the others thin."""
    figure, axes = plt.subplots(1, 2, figsize=(7, 3.8))
    first = runs[0]
    epochs = np.arange(1, first.epochs_run + 1)
    for axis, quantity, factor in zip(axes, ("accuracy", "loss"), (100, 1), strict=True):
        for run in runs[1:]:
            values = factor * np.array(run.history[f"test_{quantity}"])
            axis.plot(np.arange(1, run.epochs_run + 1), values, color=colour(label), linewidth=0.8, alpha=0.5)
        test, train = (factor * np.array(first.history[f"{name}_{quantity}"]) for name in ("test", "train"))
        axis.plot(epochs, train, color=INK, linestyle="--", label="training")
        axis.plot(epochs, test, color=colour(label), label=f"test, seed {first.config.seed}")
        _mark_learning_rate_drops(axis, first)
        axis.plot(
            first.best_epoch, test[first.best_epoch - 1], "o", color=colour(label), markeredgecolor=INK, markersize=9
        )
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _zoom_on_accuracy(axes[0], runs)
    axes[0].axhline(100 * TARGET, color=INK, linewidth=0.8)
    axes[0].set_ylabel("accuracy (%)")
    axes[1].set_ylabel("cross-entropy loss")
    axes[1].set_yscale("log")
    axes[1].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[1].yaxis.set_major_formatter("{x:g}")
    axes[1].yaxis.set_minor_formatter(NullFormatter())
    axes[1].legend(*axes[0].get_legend_handles_labels(), loc="upper right", frameon=True, framealpha=0.9)
    return figure


def compare_learning_curves(runs: Mapping[str, TrainingRun]) -> Figure:
    """Draws the test accuracy an epoch of several networks, the chosen epoch of each marked."""
    figure, axis = plt.subplots(figsize=(7, 4.2))
    for label, run in runs.items():
        values = 100 * np.array(run.history["test_accuracy"])
        axis.plot(np.arange(1, run.epochs_run + 1), values, color=colour(label), label=label, linewidth=1.6)
        axis.plot(
            run.best_epoch, values[run.best_epoch - 1], "o", color=colour(label), markeredgecolor=INK, markersize=9
        )
    _zoom_on_accuracy(axis, list(runs.values()))
    axis.axhline(100 * TARGET, color=INK, linewidth=0.8)
    axis.set(xlabel="epoch", ylabel="test accuracy (%)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=len(runs))
    return figure


def parameters_against_accuracy(points: Mapping[str, tuple[int, Sequence[float]]]) -> Figure:
    """Draws each network at its trainable parameters (log scale) and test accuracy, with its seeds and their mean.

    Args:
        points: by label, the trainable parameters and the best test accuracies (0 to 1) of the seeds.
    """
    figure, axis = plt.subplots(figsize=(7, 4.2))
    for label, (parameters, accuracies) in points.items():
        values = 100 * np.array(accuracies)
        axis.plot([parameters] * len(values), values, "_", color=colour(label), markersize=14, markeredgewidth=1.5)
        style = {"marker": "o", "markeredgecolor": INK, "markersize": 10}
        if label == "pruned gradually":  # as many parameters as a round of pruning, so it may lie exactly behind that
            style = {"marker": "D", "fillstyle": "none", "markeredgewidth": 2, "markersize": 13}
        axis.plot(parameters, values.mean(), linestyle="none", color=colour(label), label=label, **style)
    axis.axhline(100 * TARGET, color=INK, linewidth=0.8)
    axis.text(0.995, 100 * TARGET, "99 % ", transform=axis.get_yaxis_transform(), ha="right", va="bottom", fontsize=10)
    axis.set_xscale("log")
    ticks = [2000, 3000, 4000, 5000, 7000, 10000]
    axis.set(xlabel="trainable parameters (log scale)", ylabel="best test accuracy (%)", xlim=(1900, 10500))
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def paired_accuracies(pairs: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draws for each network the accuracies (0 to 1) of both engines, those of the same seed joined by a line."""
    figure, axes = plt.subplots(1, len(pairs), figsize=(7, 3.4), sharey=True)
    for axis, (label, of_label) in zip(axes, pairs.items(), strict=True):
        for values in zip(*of_label.values(), strict=True):
            axis.plot(range(len(values)), 100 * np.array(values), "o-", color=colour(label), markeredgecolor=INK)
        axis.set_xticks(range(len(of_label)), [{"halide": "Halide"}.get(engine, "TensorFlow") for engine in of_label])
        axis.set(title=label, xlim=(-0.4, len(of_label) - 0.6))
        axis.axhline(100 * TARGET, color=INK, linewidth=0.8)
    axes[0].set_ylabel("best test accuracy (%)")
    return figure


def seconds_of_ways(seconds: Mapping[str, Mapping[str, Mapping[str, float]]], names: Mapping[str, str]) -> Figure:
    """Draws the seconds an epoch of every way to train, for each approach, on one log scale.

    Args:
        seconds: by chapter and way, median, minimum and maximum.
        names: of the ways, in their order.
    """
    figure, axes = plt.subplots(1, len(seconds), figsize=(7, 3.6), sharex=True, sharey=True)
    for axis, (chapter, of_chapter) in zip(axes, seconds.items(), strict=True):
        label = chapter.replace("_", " ")
        ways = [way for way in names if way in of_chapter]
        for row, way in enumerate(ways):
            of_way = of_chapter[way]
            axis.plot([of_way["minimum"], of_way["maximum"]], [row, row], color=INK, linewidth=1.2)
            axis.plot(of_way["median"], row, "o", color=colour(label), markeredgecolor=INK, markersize=8)
        axis.set_yticks(range(len(ways)), [names[way] for way in ways])
        axis.set(title=label, xscale="log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    axes[0].invert_yaxis()
    figure.supxlabel("seconds an epoch (log scale)", fontsize=11.5)
    return figure


def seconds_of_stages(milliseconds: Mapping[str, float], arithmetic: Mapping[str, float]) -> Figure:
    """Draws the time of the stages of a training step, and in it what their multiply-adds alone would take.

    What takes less than a hundredth of the step and has no multiply-adds to compare with is one bar, the last.
    """
    few = 0.01 * sum(milliseconds.values())
    small = {name for name, value in milliseconds.items() if value < few and name not in arithmetic} | {"rest"}
    shown = {name: value for name, value in milliseconds.items() if name not in small}
    shown[f"{len(small)} others"] = sum(value for name, value in milliseconds.items() if name in small)
    stages = list(shown)
    figure, axis = plt.subplots(figsize=(7, 0.8 + 0.24 * len(stages)))
    axis.barh(stages, list(shown.values()), color="#56B4E9", label="the stage")
    axis.barh(stages, [arithmetic.get(name, 0) for name in stages], height=0.4, color=INK, label="its arithmetic alone")
    axis.set_yticks(range(len(stages)), [name.replace("_", " ") for name in stages], fontsize=9.5)
    axis.set(xlabel="milliseconds a step, one core")
    axis.grid(axis="y", visible=False)
    axis.invert_yaxis()
    axis.legend(loc="upper right")
    return figure


def lanes() -> Figure:
    """Draws how sixteen images lie in memory: their pixels side by side, so that a vector holds one pixel of each."""
    figure, axes = plt.subplots(2, 1, figsize=(7, 3.2))
    images, pixels = 4, 5
    rows = {
        "one image after the other": [(image, pixel) for image in range(images) for pixel in range(pixels)],
        "side by side": [(image, pixel) for pixel in range(pixels) for image in range(images)],
    }
    for axis, (title, cells) in zip(axes, rows.items(), strict=True):
        for position, (image, pixel) in enumerate(cells):
            face = MORE_COLOURS[image]
            axis.add_patch(plt.Rectangle((position, 0), 1, 1, facecolor=face, edgecolor="white"))
            name = f"{'abcd'[image]}{pixel + 1}"
            ink = INK if image < 2 else "white"  # on light and on dark cells
            axis.text(position + 0.5, 0.5, name, ha="center", va="center", fontsize=9.5, color=ink)
        axis.set(xlim=(-0.2, len(cells) + 0.2), ylim=(-0.9, 1.3))
        axis.set_title(title, fontsize=11, loc="left")
        axis.axis("off")
    axes[1].annotate("", (0, -0.25), (images, -0.25), arrowprops={"arrowstyle": "<->", "color": INK})
    axes[1].text(images / 2, -0.4, "one vector", ha="center", va="top", fontsize=10)
    return figure


def sweep_points(axes: Sequence[str], points: Mapping[tuple[str, ...], Sequence[float]]) -> Figure:
    """Draws the points of a sweep one below the other: best test accuracy of each seed, and their mean.

    Args:
        axes: the parameters that vary.
        points: their values, and the accuracies (0 to 1) of the seeds.
    """
    figure, axis = plt.subplots(figsize=(7, 1.2 + 0.35 * len(points)))
    for row, accuracies in enumerate(points.values()):
        values = 100 * np.array(accuracies)
        axis.plot(values, [row] * len(values), "|", color=COLOURS["approach 2"], markersize=12, markeredgewidth=1.5)
        axis.plot(values.mean(), row, "o", color=COLOURS["approach 2"], markeredgecolor=INK, markersize=8)
    axis.axvline(100 * TARGET, color=INK, linewidth=0.8)
    axis.set_yticks(range(len(points)), [", ".join(point) for point in points])
    axis.invert_yaxis()
    axis.set(xlabel="best test accuracy (%)", ylabel=", ".join(axes).replace("_", " "))
    axis.margins(y=0.12)
    return figure


def runs_an_hour(stand_ins: Mapping[int, float], real: Mapping[int, float], ideal: float, limit: float) -> Figure:
    """Draws runs an hour against workers, both on log scales.

    Args:
        stand_ins, real: the rates by number of workers, of sleeping stand-ins and of trainings.
        ideal: the rate of one worker if nothing but the run took time.
        limit: the highest rate that the scheduler passes.
    """
    figure, axis = plt.subplots(figsize=(7, 3.8))
    workers = np.array([1, 2 * max(stand_ins)])
    axis.plot(workers, ideal * workers, color="#7A7A7A", linewidth=1, label="stand-ins if nothing else took time")
    axis.plot(list(stand_ins), list(stand_ins.values()), "o", color=COLOURS["approach 1"], label="sleeping stand-ins")
    axis.plot(list(real), list(real.values()), "s", color=COLOURS["approach 2"], label="trainings of approach 2")
    axis.axhline(limit, color=INK, linestyle="--", linewidth=1, label="runs that take no time")
    axis.set(xscale="log", yscale="log", xlabel="workers", ylabel="runs an hour")
    ticks = sorted({*real, *stand_ins})
    axis.set_xticks(ticks, [f"{number:,}" for number in ticks])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.legend(loc="upper left", bbox_to_anchor=(0, 0.9))
    return figure


def ranking_comparison(
    kernels: Mapping[str, np.ndarray], global_masks: Mapping[str, np.ndarray], layer_masks: Mapping[str, np.ndarray]
) -> Figure:
    """Draws the weights of each layer by magnitude; what global and what per-layer ranking would prune is crossed."""
    figure, axes = plt.subplots(1, 2, figsize=(7, 4), sharey=True)
    generator = np.random.default_rng(0)
    shift = {name: generator.uniform(-0.35, 0.35, kernel.size) for name, kernel in kernels.items()}
    titles = ("one ranking for all layers", "a ranking for each layer")
    for axis, masks, title in zip(axes, (global_masks, layer_masks), titles, strict=True):
        for position, (name, kernel) in enumerate(kernels.items(), start=1):
            kept = masks[name].ravel()
            magnitude = np.abs(kernel).ravel()
            options = {"linestyle": "none", "rasterized": True}
            axis.plot(position + shift[name][kept], magnitude[kept], ".", color="#0072B2", markersize=2.5, **options)
            axis.plot(position + shift[name][~kept], magnitude[~kept], "x", color="#D55E00", markersize=2.5, **options)
        axis.set(title=title, xlabel="convolution", xticks=range(1, len(kernels) + 1), yscale="log", ylim=(1e-4, 4))
        axis.plot([], [], ".", color="#0072B2", label="kept")
        axis.plot([], [], "x", color="#D55E00", label="pruned")
        axis.grid(axis="x", visible=False)
    axes[0].set_ylabel("magnitude of the weight (log scale)")
    axes[1].legend(loc="lower right", frameon=True, framealpha=0.9)
    return figure


def survivors_by_layer(runs: Mapping[str, TrainingRun]) -> Figure:
    """Draws the share of each layer's kernel weights that survives in each run."""
    figure, axis = plt.subplots(figsize=(7, 3.8))
    width = 0.8 / len(runs)
    for offset, (label, run) in enumerate(runs.items()):
        shares = [100 * np.count_nonzero(kernel) / kernel.size for kernel in convolution_kernels(run.weights).values()]
        positions = np.arange(1, len(shares) + 1) + (offset - (len(runs) - 1) / 2) * width
        axis.bar(positions, shares, width, color=colour(label), edgecolor=INK, linewidth=0.5, label=label)
    axis.set(xlabel="convolution", ylabel="kernel weights left (%)", xticks=range(1, len(shares) + 1), ylim=(0, 105))
    axis.grid(axis="x", visible=False)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def weight_histograms(weights: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draws, under each label, how the kernel weights that are not zero are distributed, all layers together."""
    columns = min(2, len(weights))
    rows = -(-len(weights) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(7, 2.5 * rows), sharex=True, squeeze=False)
    every_weight = [kernel.ravel() for arrays in weights.values() for kernel in convolution_kernels(arrays).values()]
    limit = np.quantile(np.abs(np.concatenate(every_weight)), 0.995)
    bins = np.linspace(-limit, limit, 81)
    for axis in axes.flat[len(weights) :]:
        axis.axis("off")
    for axis, (label, arrays) in zip(axes.flat, weights.items(), strict=False):
        values = np.concatenate([kernel[kernel != 0] for kernel in convolution_kernels(arrays).values()])
        axis.hist(np.clip(values, bins[0], bins[-1]), bins, color=colour(label.partition(":")[0]), edgecolor="none")
        axis.set_title(f"{label} ({len(values):,} weights)", fontsize=11)
    for axis in axes[-1]:
        axis.set_xlabel("weight")
    for axis in axes[:, 0]:
        axis.set_ylabel("number of weights")
    return figure


def _mark_learning_rate_drops(axis: Axes, run: TrainingRun) -> None:
    rates = run.history["learning_rate"]
    drops = [epoch for epoch in range(1, run.epochs_run) if rates[epoch] < rates[epoch - 1]]
    for position, epoch in enumerate(drops):
        label = "learning rate falls" if position == 0 else None
        axis.axvline(epoch + 0.5, color="#7A7A7A", linestyle=":", linewidth=1.2, label=label)


def _zoom_on_accuracy(axis: Axes, runs: Sequence[TrainingRun]) -> None:
    """Shows the range in which the better half of all epochs lies; the first epochs may fall below the picture."""
    accuracies = np.concatenate([run.history["test_accuracy"] for run in runs])
    low = 100 * np.quantile(accuracies, 0.15)
    highest = max(float(np.max(line.get_ydata())) for line in axis.lines)
    axis.set_ylim(max(0.0, low - 0.5), min(100.0, max(highest, 100 * TARGET) + 0.1))
