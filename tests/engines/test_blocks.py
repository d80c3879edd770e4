"""Which networks the Halide engine reads as blocks; needs no Halide."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

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
from smallcnn.engines.halide.blocks import Block, Network, describe_network
from smallcnn.paths import ROOT
from tests.networks import PUBLISHED, architectures, chain

# The layers of blocks, by a letter; every other layer is "x".
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
    """Whether the network is read as blocks; it is if and only if it looks like some."""
    letters, network = "".join(map(letter, architecture.layers)), describe_network(architecture)
    assert (network is not None) == bool(re.fullmatch(WHOLE, letters))
    if network is not None:
        assert len(network.blocks) == letters.count("C")
    return network is not None


def test_chains_of_blocks_are_read_and_most_of_their_neighbours_are_not() -> None:
    chains = [chain((4, 10), (1,), 0.1, (2,)), chain((4, 4, 3), (1, 3), 0.1, (1,), "dense")]
    assert all(map(check_reading, [*chains, *PUBLISHED.values()]))
    read = [check_reading(neighbour) for one in chains for neighbour in neighbours(one)]
    assert 20 < read.count(True) < read.count(False)


@given(architecture=architectures())
def test_no_other_network_is_read(architecture: Architecture) -> None:
    check_reading(architecture)


def blocks(architecture: Architecture) -> tuple[Block, ...]:
    network = describe_network(architecture)
    assert isinstance(network, Network)
    return network.blocks


def test_the_published_networks_are_read_as_blocks_and_a_head() -> None:
    assert blocks(PUBLISHED["approach_1"]) == (
        Block(1, 1, 32, 28, 26, 13, True, 0.0),
        Block(2, 32, 14, 13, 11, 5, True, 0.1),
    )
    assert describe_network(PUBLISHED["approach_1"]).is_dense
    assert blocks(PUBLISHED["approach_2"]) == (
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
    assert [block.dropout for block in blocks(Architecture(tuple(layers)))] == [0.2, 0.5]


def test_networks_are_read_without_halide() -> None:
    code = "import sys, smallcnn.engines.halide.blocks; sys.exit('halide' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
