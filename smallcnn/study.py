"""The study: every chapter and every network of the book, once.

A new approach is a notebook in `book/`, its line in `_toc.yml`, and one record here. It is then on the first page, in
the comparison, among the parameters, in the preview and before the gates. Published values are these, whatever a
notebook's own file says: `make parameters` writes them into the notebooks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Parameter:
    """What a chapter's parameter is, whatever its value.

    Attributes:
        type: "int", "float", "str" or "list[int]".
        help: what it does.
        unit: of the value, empty for none.
        minimum, maximum: of a number, or of each in a list; a name stands for that parameter's value, or for the length
            of a list. The ends of a float's range are allowed unless `open_below` or `open_above`.
        choices: the words that are allowed.
    """

    type: str
    help: str
    unit: str = ""
    minimum: int = 0
    maximum: int | str | None = None
    open_below: bool = False
    open_above: bool = False
    choices: tuple[str, ...] = ()


PARAMETERS: dict[str, Parameter] = {
    "digits_shown": Parameter("int", "images of each digit in the picture", "images", 1, 20),
    # The network.
    "filters": Parameter("list[int]", "filters of each block's convolution, first block first", "", 1, 1024),
    "pool_after": Parameter("list[int]", "blocks that end in 2×2 max pooling, counted from 1", "", 1, "filters"),
    "dropout": Parameter(
        "float", "fraction of values set to zero where dropout is applied", "0 to below 1", 0, 1, open_above=True
    ),
    "dropout_after": Parameter("list[int]", "blocks that end in dropout", "", 1, "filters"),
    "head": Parameter(
        "str", '"dense" (flatten, dense layer) or "pooled" (global average pooling)', choices=("dense", "pooled")
    ),
    # Pruning.
    "schedule": Parameter(
        "str",
        '"article" (round r prunes pruning_fraction^(1/r)) or "paper" (pruning_fraction always)',
        choices=("article", "paper"),
    ),
    "pruning_fraction": Parameter(
        "float", "how much of the surviving kernel weights goes, see schedule", "above 0, below 1", 0, 1, True, True
    ),
    "rounds": Parameter("int", "rounds of pruning after the unpruned training", "", 1, 100),
    "gradual_epochs": Parameter(
        "int", "epochs over which the gradual schedule, for contrast, reaches its sparsity", "epochs", 1, "epochs"
    ),
    "gradual_seeds": Parameter("list[int]", "seeds of the gradually pruned runs, one run each", "", 0),
    # Training.
    "epochs": Parameter("int", "passes over the training set at most", "epochs", 1, 100_000),
    "batch_size": Parameter(
        "int", "images for each step; an incomplete last batch of an epoch is left out", "images", 1, "train_examples"
    ),
    "learning_rate": Parameter("float", "learning rate of Adam at the start", "above 0", 0, None, True),
    "early_stopping_patience": Parameter(
        "int", "epochs without a better test accuracy before training stops", "epochs", 1
    ),
    "early_stopping_baseline": Parameter(
        "float", "test accuracy that a better epoch must exceed to restart the patience", "0 to 1", 0, 1
    ),
    "plateau_patience": Parameter(
        "int", "epochs without a better test accuracy before the learning rate falls", "epochs", 1
    ),
    "plateau_factor": Parameter(
        "float", "what the learning rate is then multiplied by", "above 0, below 1", 0, 1, True, True
    ),
    "train_examples": Parameter("int", "training images, with the classes in their proportions", "images", 10, 60_000),
    "seeds": Parameter(
        "list[int]", "one run each; a seed decides initial weights, the order of the data and dropout", "", 0
    ),
    "engine": Parameter(
        "str",
        'what computes the steps: "halide", "tensorflow", or "auto" (Halide where it can)',
        choices=("auto", "halide", "tensorflow"),
    ),
    # Further runs.
    "dropout_tried": Parameter("float", "dropout of the further runs", "0 to below 1", 0, 1, open_above=True),
    "dropout_tried_after": Parameter("list[int]", "blocks that end in dropout in the further runs", "", 1),
}
NETWORK_PARAMETERS = ("filters", "pool_after", "dropout", "dropout_after", "head")


@dataclass(frozen=True)
class Article:
    """What the article says of a network; accuracies as it writes them."""

    total: int | None = None
    trainable: int | None = None
    pruned: int | None = None
    remaining: int | None = None
    pruned_share: str = ""
    accuracy: str = "–"


@dataclass(frozen=True)
class Chapter:
    """A chapter that is a notebook.

    Attributes:
        name: the notebook's file name without its ending.
        published: the published parameters by name, in the order of its parameters cell.
        preview: the values of a preview that differ.
        label: the name on every page of the network that it designs; empty where it designs none.
        colour: of that network in every figure.
        article: what the article says of it.
        reads: the chapters whose results it reads.
    """

    name: str
    published: Mapping[str, Any] = field(default_factory=dict)
    preview: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    colour: str = ""
    article: Article = Article()
    reads: tuple[str, ...] = ()


TRAINING = {
    "epochs": 40,
    "batch_size": 125,
    "learning_rate": 0.01,
    "early_stopping_patience": 10,
    "early_stopping_baseline": 0.98,
    "plateau_patience": 4,
    "plateau_factor": 0.5,
    "train_examples": 60000,
    "seeds": [0, 1, 2],
    "engine": "auto",
}
FEW = {"epochs": 3, "train_examples": 6000, "seeds": [0, 1]}
SECOND_NETWORK = {
    "filters": [4, 8, 16, 16, 10],
    "pool_after": [2],
    "dropout": 0.1,
    "dropout_after": [3, 4, 5],
    "head": "pooled",
}

# Colours are from the palettes of Okabe and Ito (2008) and of Tol (2021), which colour-blind readers can tell apart.
APPROACHES = (
    Chapter(
        "approach_1",
        {"filters": [32, 14], "pool_after": [1, 2], "dropout": 0.1, "dropout_after": [2], "head": "dense"} | TRAINING,
        FEW,
        "approach 1",
        "#0072B2",
        Article(8060, 7968, accuracy="99.24\u202f%"),
    ),
    Chapter(
        "approach_2",
        SECOND_NETWORK | TRAINING,
        FEW,
        "approach 2",
        "#D55E00",
        Article(5490, 5382, accuracy="99.47\u202f%"),
    ),
    Chapter(
        "approach_3",
        {"filters": [2, 4, 8, 16, 10], "pool_after": [2], "dropout": 0.0, "dropout_after": [], "head": "pooled"}
        | TRAINING
        | {"dropout_tried": 0.1, "dropout_tried_after": [3, 4, 5]},
        FEW,
        "approach 3",
        "#009E73",
        Article(3170, 3090, accuracy="over 99\u202f%"),
    ),
)
PRUNED = "approach_2"  # the approach whose network the pruning chapter prunes
PRUNING = Chapter(
    "pruning",
    SECOND_NETWORK
    | {"schedule": "article", "pruning_fraction": 0.2, "rounds": 2, "gradual_epochs": 10, "gradual_seeds": [0]}
    | TRAINING,
    FEW | {"seeds": [0], "gradual_epochs": 2},
)
# What the article says of the rounds of pruning, and their colours.
ARTICLE_PRUNABLE = 5220
ARTICLE_ROUNDS = {
    1: Article(None, 4338, 1044, 4176, "20\u202f%", "above 99\u202f%"),
    2: Article(None, 2471, 1867, 2309, "55.77\u202f%", "99.2\u202f%"),
}
UNPRUNED, GRADUAL = "unpruned", "pruned gradually"
ROUND_COLOURS = ("#D55E00", "#CC79A7", "#56B4E9", "#E69F00", "#117733", "#44AA99", "#999933")
GRADUAL_COLOUR = "#7A7A7A"

CHAPTERS: dict[str, Chapter] = {
    chapter.name: chapter
    for chapter in (
        Chapter("data", {"digits_shown": 10}),
        *APPROACHES,
        PRUNING,
        Chapter("comparison", reads=(*(approach.name for approach in APPROACHES), PRUNING.name)),
    )
}


def round_label(number: int) -> str:
    """The name of a round of pruning in figures and tables."""
    return f"pruned, round {number}" if number else UNPRUNED


def colour(label: str) -> str:
    """The colour of a network, by the name that it has on every page."""
    fixed = {approach.label: approach.colour for approach in APPROACHES} | {GRADUAL: GRADUAL_COLOUR}
    rounds = {round_label(number): colour for number, colour in enumerate(ROUND_COLOURS)}
    return (fixed | rounds).get(label) or ROUND_COLOURS[sum(map(ord, label)) % len(ROUND_COLOURS)]
