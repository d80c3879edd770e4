"""The floors of the library: a file imports only what is below it, and nothing imports in a circle."""

from __future__ import annotations

import pytest

from smallcnn.build.cache import modules_of
from smallcnn.paths import ROOT

# From the top to the ground; what is in none of these rows is on the ground.
FLOORS = (
    ("build/", "cli.py", "__main__.py"),
    ("report/",),
    ("runs/",),
    ("training.py",),
    ("engines/",),
    ("config.py",),
)
MODULES = sorted((ROOT / "smallcnn").rglob("*.py"))


def floor(name: str) -> int:
    """The number of a file's floor, 0 for the top."""
    return next((number for number, rows in enumerate(FLOORS) if name.startswith(rows)), len(FLOORS))


@pytest.mark.parametrize("name", [str(path.relative_to(ROOT / "smallcnn")) for path in MODULES])
def test_a_file_imports_only_what_is_below_it_and_never_itself(name: str) -> None:
    path = ROOT / "smallcnn" / name
    imported = modules_of(path.read_text(encoding="utf-8"))
    assert path not in imported, "an import in a circle"
    names = [str(other.relative_to(ROOT / "smallcnn")) for other in imported]
    assert [other for other in names if floor(other) < floor(name)] == []


def test_every_floor_has_its_files() -> None:
    names = [str(path.relative_to(ROOT / "smallcnn")) for path in MODULES]
    assert all(any(name.startswith(rows) for name in names) for rows in FLOORS)
