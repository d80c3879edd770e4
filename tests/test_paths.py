"""Environment variables: what they mean, and what is refused before anything starts."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from smallcnn import cli, paths
from smallcnn.paths import OF_A_BUILD, ROOT, VARIABLES, PlaceError, check_environment
from smallcnn.report import own_runs

PLACES: dict[str, Callable[[], Path]] = {
    "SMALLCNN_MNIST": paths.mnist_file,
    "SMALLCNN_RUNS": paths.runs_folder,
    "SMALLCNN_BUILD": paths.build_folder,
}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the variables is set."""
    for name in (*VARIABLES, *OF_A_BUILD):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def as_nobody() -> Iterator[Path]:
    """A folder, and no right to everything: an administrator becomes user 65534 meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        ids = os.getresuid()
        if ids[0] == 0:
            os.chown(folder, 65534, -1)
            os.setresuid(65534, 65534, 0)
        try:
            yield Path(folder)
        finally:
            os.setresuid(*ids)


def error() -> str:
    """The message of what `check_environment` refuses, in one line that names what to do."""
    with pytest.raises(PlaceError) as raised:
        check_environment()
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert not re.search("elete|remove", message)
    return message


def test_the_readme_explains_every_variable_and_no_other() -> None:
    table = (
        (ROOT / "README.md").read_text(encoding="utf-8").partition("| environment variable |")[2].partition("\n\n")[0]
    )
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == VARIABLES


def test_every_variable_of_ours_that_the_library_reads_is_known() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "smallcnn").rglob("*.py"))
    read = {name for name in re.findall(r'"(SMALLCNN_[A-Z_]+)"', code)}
    assert read == {name for name in (*VARIABLES, *OF_A_BUILD) if name.startswith("SMALLCNN_")}


@pytest.mark.parametrize("variable", PLACES)
def test_a_path_means_one_place_whatever_the_folder(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    file = home / "a place"
    file.parent.mkdir()
    file.touch()
    monkeypatch.setattr(paths, "ROOT", tmp_path / "home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    for text in ("a place", "./a place", "~/a place", str(file), "../home/a place"):
        monkeypatch.setenv(variable, text)
        found = PLACES[variable]()
        assert found.is_absolute() and found.samefile(file)


@pytest.mark.parametrize("variable", PLACES)
def test_the_home_of_nobody_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "~no-such-user/place")
    assert error().startswith(f"{variable} is '~no-such-user/place', and ~no-such-user is no user here; give a path")
    with pytest.raises(PlaceError):
        PLACES[variable]()


def test_what_is_right_or_not_set_is_not_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_environment()
    (tmp_path / "mnist.npz").touch()
    monkeypatch.setenv("SMALLCNN_MNIST", str(tmp_path / "mnist.npz"))
    monkeypatch.setenv("SMALLCNN_RUNS", str(tmp_path))
    monkeypatch.setenv("SMALLCNN_BUILD", str(tmp_path / "yet" / "to be made"))
    monkeypatch.setenv("SMALLCNN_PREVIEW", "1")
    check_environment()
    for variable in PLACES:
        monkeypatch.setenv(variable, "")
    check_environment()
    assert list(tmp_path.iterdir()) == [tmp_path / "mnist.npz"]


def test_a_copy_of_mnist_must_be_a_file_that_can_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for path, problem in [(tmp_path, "is a folder"), (tmp_path / "a\nb.npz", "does not exist")]:
        monkeypatch.setenv("SMALLCNN_MNIST", str(path))
        assert error().startswith(f"SMALLCNN_MNIST is {str(path)!r}, which {problem}; give the path of a copy of mnist")
    (tmp_path / "link.npz").symlink_to(tmp_path / "gone")
    monkeypatch.setenv("SMALLCNN_MNIST", str(tmp_path / "link.npz"))
    assert "link.npz', which does not exist; " in error()
    with as_nobody() as folder:
        (folder / "mnist.npz").touch(mode=0)
        monkeypatch.setenv("SMALLCNN_MNIST", str(folder / "mnist.npz"))
        assert "mnist.npz', which cannot be read; " in error()


@pytest.mark.parametrize("variable", ["SMALLCNN_RUNS", "SMALLCNN_BUILD"])
def test_a_folder_must_be_one_that_can_be_written_to(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for path, problem in [(file, file), (file / "in it", file), (tmp_path / "link", tmp_path / "link")]:
        monkeypatch.setenv(variable, str(path))
        assert (
            error()
            == f"{variable} is {str(path)!r}, and {problem} is no folder; give a folder to write to, or unset it"
        )
    with as_nobody() as folder:
        folder.chmod(0o500)
        for path in (folder, folder / "yet to be made"):
            monkeypatch.setenv(variable, str(path))
            assert f"{variable} is {str(path)!r}, and {folder} cannot be read and written to; " in error()
        folder.chmod(0o700)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SMALLCNN_MINST", "SMALLCNN_MNIST"),
        ("SMALLCNN_RUN", "SMALLCNN_RUNS"),
        ("SMALCNN_BUILD", "SMALLCNN_BUILD"),
        ("smallcnn_mnist", "SMALLCNN_MNIST"),
        ("SMALLCNN_CELL_SECOND", "SMALLCNN_CELL_SECONDS"),
        ("SMALLCNN_X", ""),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "")
    perhaps = f", perhaps {meant}" if meant else ""
    assert error().startswith(f"unknown environment variable {name}{perhaps}; there are: SMALLCNN_MNIST, ")


def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "DASK_SCHEDULER__WORK_STEALING", "SMALL", "MNIST", "CNN_BUILD"):
        monkeypatch.setenv(name, "1")
    check_environment()


def test_the_command_line_refuses_them_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(own_runs, "show", lambda: pytest.fail("it has started"))
    for name, value in [("SMALLCNN_MINST", "x"), ("SMALLCNN_MNIST", "/no such file")]:
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert cli.main(["runs"]) == 1
        output = capsys.readouterr()
        assert (output.out, output.err.count("\n")) == ("", 1)
        assert name in output.err
