"""Networks for tests: chains of blocks with a head, the three published ones among them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hypothesis import strategies as st

from smallcnn.architecture import (
    CLASSES,
    IMAGE_SIZE,
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

hundredths = st.integers(1, 99).map(lambda count: count / 100)
layers_anywhere = st.one_of(
    st.just(Activation("relu")),
    st.builds(Activation, st.just("leaky_relu"), hundredths),
    st.builds(BatchNormalisation, st.booleans(), hundredths, hundredths, st.booleans()),
    st.just(BatchNormalisation()),
    st.builds(Dropout, hundredths),
)
layers_of_maps = st.one_of(
    st.builds(
        Convolution,
        st.integers(1, 12),
        st.integers(1, 5),
        padding=st.sampled_from(["valid", "same"]),
        use_bias=st.booleans(),
    ),
    st.builds(MaxPooling, st.integers(2, 3)),
    st.builds(AveragePooling, st.integers(2, 3)),
    layers_anywhere,
)
layers_of_numbers = st.one_of(st.builds(Dense, st.integers(1, 12), st.booleans()), layers_anywhere)


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    """Any network of the vocabulary, of a few layers."""
    layers: list[Layer] = []
    shape: tuple[int, ...] = (IMAGE_SIZE, IMAGE_SIZE, 1)
    for layer in [
        *draw(st.lists(layers_of_maps, max_size=7)),
        draw(st.sampled_from([Flatten(), GlobalAveragePooling()])),
        *draw(st.lists(layers_of_numbers, max_size=4)),
    ]:
        try:
            shape = layer.output_shape(shape)
        except ValueError:  # no pixels are left for it
            continue
        layers.append(layer)
    if shape != (CLASSES,):
        layers.append(draw(st.builds(Dense, st.just(CLASSES), st.booleans())))
    return Architecture((*layers, Activation("softmax")))
