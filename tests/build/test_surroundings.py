"""The surroundings that the project makes for its programs: what gets in, and what of a machine stays outside."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from smallcnn import surroundings
from smallcnn.paths import ROOT
from tests.build.hostile import FILES, VARIABLES, Home

NAMED = re.findall(
    r"^\| `([A-Z_]+)` \|", (ROOT / "README.md").read_text("utf-8").split("| environment variable |")[1], re.M
)
SHOW = "import json, os; print(json.dumps(dict(os.environ)))"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_no_variable_or_file_is_listed_twice() -> None:
    names = Counter(variable.name for variable in VARIABLES) + Counter((file.place, file.path) for file in FILES)
    assert not [name for name, count in names.items() if count > 1]
    assert len(VARIABLES) > 200
    assert len(FILES) >= 60


def test_no_setting_of_another_program_gets_in(home: Home) -> None:
    theirs = home.environment()
    assert not theirs.items() & surroundings.environment(theirs).items()


@pytest.mark.parametrize("name", NAMED)
def test_what_readme_names_gets_in(name: str) -> None:
    assert surroundings.environment({name: "/a/b"})[name] == "/a/b"


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("/a/b", "/a/b"),
        ("a b", str(ROOT / "a b")),
        ("~", os.path.expanduser("~")),
        ("~/x", os.path.expanduser("~/x")),
        ("~nobody-here/x", "~nobody-here/x"),  # for the check of places to refuse
    ],
)
def test_a_place_means_what_it_meant_outside(given: str, place: str) -> None:
    assert surroundings.environment({"SMALLCNN_RUNS": given})["SMALLCNN_RUNS"] == place


def test_a_program_starts_in_the_surroundings_and_keeps_its_arguments(home: Home) -> None:
    slow = {"PYTHONTRACEMALLOC", "PYTHONPYCACHEPREFIX"}
    fatal = {"PYTHONHOME", "PYTHONPLATLIBDIR", "PYTHONEXECUTABLE"}  # Python does not start
    theirs = {name: value for name, value in home.environment().items() if name not in slow | fatal}
    command = [sys.executable, "-m", "smallcnn.surroundings", "-c", f"{SHOW}; import sys; print(sys.argv)", "-x", "a b"]
    done = subprocess.run(command, cwd=ROOT, env=theirs | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    shown, arguments = done.stdout.splitlines()
    assert arguments == "['-c', '-x', 'a b']"
    left = json.loads(shown).items() & theirs.items()
    assert not left, left


def test_make_does_not_let_python_see_its_variables(home: Home, tmp_path: Path) -> None:
    first = tmp_path / "first.mk"
    first.write_text(f"override PYTHON := {sys.executable} -c '{SHOW}' \\#\n", "utf-8")
    command = ["make", "-s", "-o", ".venv/.installed", "-f", str(first), "-f", "Makefile", "runs"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | home.environment(), capture_output=True, text=True)
    shown = json.loads(done.stdout)
    assert {name for name in shown if name.startswith("PYTHON")} <= {"PYTHON", "PYTHONUTF8"}
    assert "KERAS_HOME" in shown


def test_a_trap_that_a_program_reads_is_found(home: Home) -> None:
    assert home.read() == home.written() == set()
    trap = home.folder / ".docutils"
    trap.read_text("utf-8")
    if trap.stat().st_atime == 0:
        pytest.skip("this file system does not note when a file is read")
    (home.folder / "xdg" / "new").mkdir()
    assert home.read() == {".docutils"}
    assert home.written() == {"xdg/new"}
