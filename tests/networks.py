"""Networks for tests: chains of blocks with a head, the three published ones among them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

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
    Layer,
    MaxPooling,
)


def chain(
    filters: Sequence[int],
    pool_after: Collection[int] = (),
    dropout: float = 0.0,
    dropout_after: Collection[int] = (),
    head: str = "pooled",
) -> Architecture:
    """Blocks of a 3×3 convolution, ReLU, batch normalisation and, where asked for, 2×2 max pooling and dropout.

    Args:
        filters: of each block's convolution, first block first.
        pool_after, dropout_after: blocks that end in it, counted from 1.
        dropout: fraction of values set to zero there.
        head: "pooled" (global average pooling) or "dense" (flatten, dense layer of 10).
    """
    layers: list[Layer] = []
    for block, count in enumerate(filters, start=1):
        layers += [Convolution(count), Activation("relu"), BatchNormalisation()]
        if block in pool_after:
            layers.append(MaxPooling())
        if block in dropout_after:
            layers.append(Dropout(dropout))
    layers += [GlobalAveragePooling()] if head == "pooled" else [Flatten(), Dense(CLASSES)]
    return Architecture((*layers, Activation("softmax")))


PUBLISHED = {
    "approach_1": chain((32, 14), (1, 2), 0.1, (2,), "dense"),
    "approach_2": chain((4, 8, 16, 16, 10), (2,), 0.1, (3, 4, 5)),
    "approach_3": chain((2, 4, 8, 16, 10), (2,)),
}
