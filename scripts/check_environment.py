"""Finishes the environment that it runs in, or says in one line what is wrong with it; needs no package.

    check_environment.py LOCK DIRECT STAMP CHECKSUM

LOCK is the file of pinned packages, DIRECT the one that names those which the project itself uses; the current folder
is the project's. Every package must be in the environment's own folder, at its version and with all its files, and what
the project uses must really be importable. Then the environment is made independent of where it is, and STAMP says for
which lock, by its CHECKSUM, and in which folder it is complete.
"""

from __future__ import annotations

import csv
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import sysconfig
from contextlib import redirect_stdout
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

ENVIRONMENT = Path(sys.prefix)
PACKAGES = Path(sysconfig.get_path("purelib"))

# A shebang of Python as pip and uv write it: one line, or three where that would be too long or have a space.
PYTHON_SHEBANG = re.compile(rb"\A#!(?:/bin/sh\n'''exec' [^\n]*python[^\n]*\n' '''|[^\n]*python[^\n]*)\n")
# The same for a Python that stands beside the script, wherever that is.
PYTHON_BESIDE = b"""#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")"/'python' "$0" "$@"
' '''
"""


class Incomplete(Exception):
    """A package is not as the lock says."""


def read_lock(text: str) -> list[Requirement]:
    """The packages of a lock whose markers hold here."""
    logical_lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    requirements = [Requirement(line.partition(" --hash")[0]) for line in logical_lines if line.strip()]
    return [each for each in requirements if each.marker is None or each.marker.evaluate()]


def read_names(text: str) -> set[str]:
    """The canonical names of the packages that a requirements.in names."""
    return {canonicalize_name(name) for name in re.findall(r"^[\w.-]+", text, re.MULTILINE)}


def installed_packages() -> dict[str, importlib.metadata.Distribution]:
    """What the environment's own folder holds, by canonical name."""
    folders = {str(PACKAGES), sysconfig.get_path("platlib")}
    found = importlib.metadata.distributions(path=sorted(folders))
    return {canonicalize_name(each.metadata["Name"]): each for each in found}


def files_of(package: importlib.metadata.Distribution) -> list[str]:
    """The files that a package was installed with, relative to its folder; bytecode comes and goes.

    Raises:
        Incomplete: if one is missing.
    """
    recorded = [row[0] for row in csv.reader((package.read_text("RECORD") or "").splitlines())]
    files = [name for name in recorded if not name.endswith(".pyc")]
    missing = [name for name in files if not os.path.lexists(package.locate_file(name))]
    if missing or not files:
        raise Incomplete(f"lacks {len(missing)} of its {len(files)} files, such as {(missing or ['RECORD'])[0]}")
    return files


def modules_of(files: list[str]) -> list[str]:
    """The top-level modules among the files of a package."""
    names = {name.split("/")[0].partition(".")[0] for name in files if name.endswith((".py", ".so"))}
    return sorted(filter(str.isidentifier, names))


def check_place(module: str) -> None:
    """Checks that a top-level module comes from this environment.

    Raises:
        Incomplete: if it comes from elsewhere, or nowhere.
    """
    spec = importlib.util.find_spec(module)
    places = [*(spec.submodule_search_locations or [spec.origin])] if spec else []
    if not any(ENVIRONMENT in Path(place or "").parents for place in places):
        raise Incomplete(f"gives the module {module} from {places or 'nowhere'} instead of {ENVIRONMENT}")


def check_import(module: str) -> None:
    """Imports a module, which also compiles it.

    Raises:
        Incomplete: if it cannot be imported.
    """
    print(f"importing {module}", file=sys.stderr, flush=True)  # in the log, should it end Python
    try:
        with redirect_stdout(sys.stderr):
            importlib.import_module(module)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise Incomplete(f"is installed, but cannot be imported ({type(error).__name__}: {reason})") from error


def check_package(requirement: Requirement, package: importlib.metadata.Distribution | None, used: bool) -> None:
    """Checks that a package is as the lock says, and can be imported if it is used.

    Raises:
        Incomplete: if it is not.
    """
    if package is None:
        raise Incomplete("is missing")
    if not requirement.specifier.contains(package.version, prereleases=True):
        raise Incomplete(f"is there as version {package.version}")
    modules = modules_of(files_of(package))
    for module in modules:
        check_place(module)
    for module in modules if used else []:
        if not module.startswith("_"):
            check_import(module)


def make_movable(scripts: Path) -> None:
    """Lets scripts find the Python beside them, so that a copied or renamed folder runs its own."""
    for script in scripts.iterdir():
        if script.is_file() and not script.is_symlink():
            content = script.read_bytes()
            movable = PYTHON_SHEBANG.sub(lambda _: PYTHON_BESIDE, content)
            if movable != content:
                script.write_bytes(movable)


def find_project() -> None:
    """Lets `import smallcnn` work wherever a kernel runs.

    The path is relative, so it is plain ASCII whatever the folder is called: Python 3.11 reads .pth files in the
    encoding of the locale.
    """
    (PACKAGES / "smallcnn.pth").write_text(os.path.relpath(os.getcwd(), PACKAGES) + "\n", encoding="ascii")


def main(lock: str, direct: str, stamp: str, checksum: str) -> int:
    used = read_names(Path(direct).read_text(encoding="utf-8"))
    installed = installed_packages()
    for requirement in read_lock(Path(lock).read_text(encoding="utf-8")):
        name = canonicalize_name(requirement.name)
        try:
            check_package(requirement, installed.get(name), name in used)
        except Incomplete as problem:
            print(f"{name}{requirement.specifier} of {lock} {problem}")
            return 1
    make_movable(ENVIRONMENT / "bin")
    find_project()
    Path(stamp).write_bytes(f"{checksum}\n".encode() + os.fsencode(os.getcwd()) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
