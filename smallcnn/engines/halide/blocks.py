"""Which networks are chains of blocks with a head, like the published ones, and the sizes of their blocks."""

from __future__ import annotations

from dataclasses import dataclass

from smallcnn.architecture import (
    CLASSES,
    Activation,
    Architecture,
    BatchNormalisation,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling,
    MaxPooling,
    PlacedLayer,
)

KERNEL_SIZE = 3


@dataclass(frozen=True)
class Block:
    """Sizes of one block of the network.

    Attributes:
        number: its place in the network, from 1.
        channels: of its input.
        filters: of its convolution, the channels of its output.
        input_size: rows, and columns, of its input.
        size: rows after its convolution.
        output_size: rows of its output.
        pooled: whether it ends in max pooling.
        dropout: fraction of its output set to zero in training.
    """

    number: int
    channels: int
    filters: int
    input_size: int
    size: int
    output_size: int
    pooled: bool
    dropout: float

    @property
    def keeps_activation(self) -> bool:
        """Whether x is computed once and kept; in the first block nine multiply-adds are quicker than memory."""
        return self.number > 1

    def name(self, array: str) -> str:
        """Names an array of the block, as weights are named."""
        return f"block_{self.number}/{array}"

    @property
    def input(self) -> str:
        """The name of its input, which is the output of the block before; that of "block 0" is the images."""
        return f"block_{self.number - 1}/output"


@dataclass(frozen=True)
class Network:
    """A network as this engine computes it.

    Attributes:
        blocks: one after the other.
        is_dense: whether a dense layer makes the scores, rather than global average pooling.
    """

    blocks: tuple[Block, ...]
    is_dense: bool


def describe_network(architecture: Architecture) -> Network | None:
    """Reads a list of layers as blocks and a head; gives None if it is anything else.

    A block is a 3×3 convolution with bias, ReLU and batch normalisation with γ and β, then 2×2 max pooling and dropout
    where wanted; the head is global average pooling or one dense layer.
    """
    try:
        return _read_blocks(architecture)
    except _OtherLayer:
        return None


class _OtherLayer(Exception):
    pass


def _read_blocks(architecture: Architecture) -> Network:
    rest = list(architecture.placed)
    blocks: list[Block] = []
    while isinstance(rest[0].layer, Convolution):
        convolution = _take(rest, Convolution(rest[0].layer.filters, KERNEL_SIZE))
        _take(rest, Activation("relu"))
        _take(rest, BatchNormalisation())
        pooled = isinstance(rest[0].layer, MaxPooling) and rest[0].layer.size == 2
        output_size = (rest.pop(0) if pooled else convolution).output_shape[0]
        dropout = 0.0
        if isinstance(layer := rest[0].layer, Dropout):
            dropout = layer.rate
            rest.pop(0)
        (input_size, _, channels), (size, _, filters) = convolution.input_shape, convolution.output_shape
        number = len(blocks) + 1
        blocks.append(Block(number, channels, filters, input_size, size, output_size, pooled, dropout))
    if not blocks:
        raise _OtherLayer
    is_dense = isinstance(rest[0].layer, Flatten)
    for expected in (Flatten(), Dense(CLASSES)) if is_dense else (GlobalAveragePooling(),):
        _take(rest, expected)
    _take(rest, Activation("softmax"))
    return Network(tuple(blocks), is_dense)


def _take(rest: list[PlacedLayer], expected: object) -> PlacedLayer:
    """Takes the next layer if it is the expected one."""
    if rest[0].layer != expected:
        raise _OtherLayer
    return rest.pop(0)
