"""The arithmetic of networks in plain NumPy, written once more from their recorded layers: nothing of the library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def scores(
    layers: Iterable[Mapping[str, Any]],
    weights: Mapping[str, np.ndarray],
    images: np.ndarray,
    moments: dict[str, np.ndarray] | None = None,
) -> np.ndarray:
    """What softmax gets of each image.

    Args:
        layers: as a record's `run.json` has them; dropout is passed over, as it is outside of training.
        weights: by name, in the order of the layers.
        images: (n, 28, 28), 0 to 1; in their precision everything is computed.
        moments: if given, normalisation goes by mean and variance of these images, as in training, and puts them here
            under the names of the moving ones.

    Returns:
        (n, 10).
    """
    left = iter(weights.items())
    values = np.ascontiguousarray(images.transpose(1, 2, 0))[
        :, :, None
    ]  # row, column, channel, image; or number, image
    for layer in layers:
        match layer["kind"]:
            case "convolution":
                values = _convolve(values, next(left)[1], layer.get("padding") == "same")
                if layer.get("use_bias", True):
                    values += next(left)[1][:, None]
            case "dense":
                values = next(left)[1].T @ values
                if layer.get("use_bias", True):
                    values += next(left)[1][:, None]
            case "batch_normalisation":
                gamma = next(left)[1] if layer.get("use_scale", True) else 1.0
                beta = next(left)[1] if layer.get("use_center", True) else 0.0
                (mean_name, mean), (variance_name, variance) = next(left), next(left)
                if moments is not None:
                    mean, variance = _channel_moments(values)
                    moments |= {mean_name: mean, variance_name: variance}
                scale = gamma / np.sqrt(variance + layer.get("epsilon", 1e-3))
                values = values * scale[:, None] + (beta - mean * scale)[:, None]
            case "activation" if layer["function"] != "softmax":
                values = np.maximum(values, layer.get("slope", 0.0) * values)
            case "max_pooling":
                values = _windows(values, layer.get("size", 2)).max(axis=(1, 3))
            case "average_pooling":
                values = _windows(values, layer.get("size", 2)).mean(axis=(1, 3))
            case "global_average_pooling":
                values = values.mean(axis=(0, 1))
            case "flatten":
                values = values.reshape(-1, values.shape[-1])
            case "activation" | "dropout":
                pass
            case kind:
                raise ValueError(f"there is no {kind}")
    assert next(left, None) is None, "there are more weights than layers"
    return values.T


def _convolve(maps: np.ndarray, kernel: np.ndarray, padded: bool) -> np.ndarray:
    """Convolves maps (rows, columns, channels, images) with a kernel (rows, columns, in, out)."""
    size, _, channels, filters = kernel.shape
    if padded:
        before, after = (size - 1) // 2, size // 2
        maps = np.pad(maps, ((before, after), (before, after), (0, 0), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(maps, (size, size), axis=(0, 1))
    windows = windows.transpose(0, 1, 4, 5, 2, 3)  # row, column, and those of the tap, channel, image
    rows, columns, *_, images = windows.shape
    return kernel.reshape(-1, filters).T @ windows.reshape(rows, columns, size * size * channels, images)


def _windows(maps: np.ndarray, size: int) -> np.ndarray:
    """Cuts maps into windows (row, its row, column, its column, channel, image); what fills none is left out."""
    rows, columns, channels, images = maps.shape
    whole = maps[: rows // size * size, : columns // size * size]
    return whole.reshape(rows // size, size, columns // size, size, channels, images)


def _channel_moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    axes = tuple(axis for axis in range(values.ndim) if axis != values.ndim - 2)
    return values.mean(axis=axes), values.var(axis=axes)
