"""Which networks the Halide engine trains, and what it says of others; needs no Halide."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given

from smallcnn.architecture import (
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
)
from smallcnn.engines.base import Unsupported
from smallcnn.engines.halide.blocks import VOCABULARY, Block, describe_network
from smallcnn.paths import ROOT
from tests.networks import PUBLISHED, architectures, chain

# The layers that it trains, by a letter; every other layer is "x".
LETTERS = {
    Activation("relu"): "R",
    BatchNormalisation(): "N",
    MaxPooling(2): "P",
    GlobalAveragePooling(): "G",
    Flatten(): "F",
    Dense(10): "d",
    Activation("softmax"): "S",
}
WHOLE = "(CRNP?D?)+(G|Fd)S"
BEGUN = "(CRNP?D?)*(C|CR)?|(CRNP?D?)+(G|GS|F|Fd|FdS)"  # how a network that it trains may begin


def letter(layer: Layer) -> str:
    if isinstance(layer, Convolution):
        return "C" if layer == Convolution(layer.filters) else "x"
    return "D" if isinstance(layer, Dropout) else LETTERS.get(layer, "x")


OTHERS = (
    *LETTERS,
    Convolution(4),
    Dropout(0.2),
    Convolution(4, 1),
    Convolution(4, 3, "same"),
    Convolution(4, 3, use_bias=False),
    Activation("leaky_relu", 0.1),
    BatchNormalisation(use_scale=False),
    BatchNormalisation(momentum=0.9),
    BatchNormalisation(epsilon=0.01),
    MaxPooling(3),
    AveragePooling(),
    Dense(20),
    Dense(10, use_bias=False),
)


def neighbours(architecture: Architecture) -> Iterator[Architecture]:
    """Every network that a layer less, a layer more or another layer makes of this one."""
    layers = architecture.layers
    for place in range(len(layers)):
        for instead in ((), *((other,) for other in OTHERS), *((other, layers[place]) for other in OTHERS)):
            with suppress(ValueError):  # what is no network
                yield Architecture((*layers[:place], *instead, *layers[place + 1 :]))


def check_reading(architecture: Architecture) -> bool:
    """Whether the network is read; if it is not to be, that the first layer that does not fit is named."""
    letters = "".join(map(letter, architecture.layers))
    if re.fullmatch(WHOLE, letters):
        assert len(describe_network(architecture).blocks) == letters.count("C")
        return True
    wrong = next(end for end in range(len(letters)) if not re.fullmatch(BEGUN, letters[: end + 1]))
    placed = architecture.placed[wrong]
    with pytest.raises(Unsupported) as raised:
        describe_network(architecture)
    assert str(raised.value) == (
        f"Halide cannot train {placed.name} ({placed.layer.description}) there; it can train {VOCABULARY}"
    )
    return False


def test_chains_of_blocks_are_read_and_of_their_neighbours_the_first_layer_that_does_not_fit_is_named() -> None:
    chains = [chain((4, 10), (1,), 0.1, (2,)), chain((4, 4, 3), (1, 3), 0.1, (1,), "dense")]
    assert all(map(check_reading, [*chains, *PUBLISHED.values()]))
    read = [check_reading(neighbour) for one in chains for neighbour in neighbours(one)]
    assert 20 < read.count(True) < read.count(False)


@given(architecture=architectures())
def test_of_any_other_network_the_first_layer_that_does_not_fit_is_named(architecture: Architecture) -> None:
    check_reading(architecture)


def test_the_published_networks_are_read_as_blocks_and_a_head() -> None:
    assert describe_network(PUBLISHED["approach_1"]).blocks == (
        Block(1, 1, 32, 28, 26, 13, True, 0.0),
        Block(2, 32, 14, 13, 11, 5, True, 0.1),
    )
    assert describe_network(PUBLISHED["approach_1"]).is_dense
    assert describe_network(PUBLISHED["approach_2"]).blocks == (
        Block(1, 1, 4, 28, 26, 26, False, 0.0),
        Block(2, 4, 8, 26, 24, 12, True, 0.0),
        Block(3, 8, 16, 12, 10, 10, False, 0.1),
        Block(4, 16, 16, 10, 8, 8, False, 0.1),
        Block(5, 16, 10, 8, 6, 6, False, 0.1),
    )
    assert not describe_network(PUBLISHED["approach_2"]).is_dense


def test_every_block_may_have_a_dropout_of_its_own() -> None:
    layers = list(chain([4, 10], dropout_after=[1, 2]).layers)
    layers[3], layers[7] = Dropout(0.2), Dropout(0.5)
    assert [block.dropout for block in describe_network(Architecture(tuple(layers))).blocks] == [0.2, 0.5]


def test_what_differs_is_said() -> None:
    layers = list(PUBLISHED["approach_3"].layers)
    layers[2] = BatchNormalisation(momentum=0.9)
    with pytest.raises(Unsupported, match=r"block_1/normalisation \(batch normalisation, momentum 0.9\)"):
        describe_network(Architecture(tuple(layers)))


def test_networks_are_read_without_halide() -> None:
    code = "import sys, smallcnn.engines.halide.blocks; sys.exit('halide' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
