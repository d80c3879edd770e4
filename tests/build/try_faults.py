"""Tries what a test has no time or no right for: kills, full disks, no network, other surroundings and folders.

`python -m tests.build.try_faults` works in a copy of the project, takes about half an hour on two cores, needs
Linux and the rights to mount file systems, and writes build/faults.json; given names of faults, it tries those and
leaves the others there as they are. Every fault meets a preview; the build after it must end with the same pages, to
the byte, as one that nothing disturbed. Where runs are trained again they must have the same bits, but they take
another time, which pages show: there the right pages are those of a second build from these runs, which nothing
disturbs.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from smallcnn import provenance
from smallcnn.files import write_json
from smallcnn.paths import ROOT
from tests.build.hostile import FILES, VARIABLES, Home
from tests.build.preview import Copy

BUILD = (sys.executable, "-m", "smallcnn", "book", "--preview")
KILLS = 20
LONGEST_SECONDS = 25.0
SEED = 0
STRANGE = """My Book {x} {{y}} %s $HOME ~ 'a' "b" #1 & <c> [d] * ü"""
# System folders $0 lie over the machine's, only folders $1 and $2 can be written, /tmp is empty; makes a preview.
AMONG_TRAPS = """\
set -e
system=$0 project=$1 home=$2; shift 2
for folder in etc usr; do mount -t overlay overlay -o "lowerdir=$system/$folder:/$folder" "/$folder"; done
mount --bind "$project" "$project"; mount --bind "$home" "$home"
mount -t tmpfs tmpfs /tmp
for folder in / /etc /usr; do mount -o remount,ro,bind "$folder"; done
cd "$project"
make -s -o .venv/.installed preview
test -z "$(ls -A /tmp)"
"""


class Trial:
    """A copy of the project, and the pages that an undisturbed build of it has."""

    def __init__(self, folder: Path) -> None:
        self.copy = Copy(folder)
        started = time.monotonic()
        self.copy.build()
        self.seconds = time.monotonic() - started
        self.pages = self.copy.files()
        self.runs = self.trained()

    def trained(self) -> dict[str, tuple[Any, ...]]:
        """What training gave, by key: histories, predictions and the hash of the weights, but no durations."""
        records = (json.loads(path.read_text("utf-8")) for path in self.copy.build_folder.glob("runs/*/run.json"))
        return {run["key"]: (run["history"], run["predicted_classes"], run["weights_sha256"]) for run in records}

    def forget(self, *kept: str) -> None:
        """Removes what was built, all but the folders `kept`."""
        for path in self.copy.build_folder.iterdir():
            if path.is_dir() and path.name not in kept:
                shutil.rmtree(path)

    def start(self, *before: str, **environment: str) -> subprocess.Popen[str]:
        """Starts a build in a process group of its own, with a command such as `unshare` before it."""
        return subprocess.Popen(
            [*before, *BUILD],
            cwd=self.copy.folder,
            env=self.copy.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def error(self) -> str:
        """Builds, and returns the line with which that fails."""
        process = self.start()
        output = process.communicate()[0]
        assert process.returncode == 1, output
        assert "Traceback" not in output, output
        (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
        return line.replace(str(self.copy.folder), "…")

    def finish(self, *before: str, trained_again: bool = False, **environment: str) -> None:
        """Builds, and checks runs and pages."""
        process = self.start(*before, **environment)
        output = process.communicate()[0]
        assert process.returncode == 0, output
        assert self.trained() == self.runs
        pages = self.copy.files()
        if trained_again:
            self.forget("runs")
            self.copy.build()
            self.pages = self.copy.files()
        assert pages == self.pages, sorted(name for name in pages if pages[name] != self.pages.get(name))


def kill_often(trial: Trial) -> str:
    generator = random.Random(SEED)
    trial.forget()
    killed = whole = 0
    while killed < KILLS:
        process = trial.start()
        try:
            output = process.communicate(timeout=generator.uniform(0.5, LONGEST_SECONDS))[0]
            assert process.returncode == 0, output
            assert trial.trained() == trial.runs
            whole += 1
            trial.forget("runs")  # there must be something left to kill
        except subprocess.TimeoutExpired:
            build = psutil.Process(process.pid)
            family = build.children(recursive=True)
            for member in (build, *(family if killed % 2 else ())):
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            process.communicate()
            _, alive = psutil.wait_procs(family, timeout=10)
            assert not alive, alive
            killed += 1
            print(f"kill {killed}", flush=True)
    trial.finish(trained_again=True)
    after = f"; {whole} more builds had ended before their moment came, and were checked" if whole else ""
    moments = f"{KILLS} moments from 0.5 to {LONGEST_SECONDS:.0f} seconds after the start{after}"
    orphans = "every second time only the first process was killed, and all others were gone within ten seconds"
    end = "the same runs, to the bit, and the same pages"
    return f"{moments}; {orphans}; every time the next build went on, and the last ended with {end}"


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Mounts an empty file system of `size` at `folder`; what was there returns afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def full_disk(trial: Trial, name: str, size: str, *kept: str) -> str:
    trial.forget(*kept)
    with small_disk(trial.copy.build_folder / name, size):
        line = trial.error()
    trial.finish(trained_again=name == "runs")
    return f"`{line}`; with room again the build gave the same pages"


def full_disk_in_training(trial: Trial) -> str:
    return full_disk(trial, "runs", "100k")


def full_disk_while_notebooks_are_saved(trial: Trial) -> str:
    return full_disk(trial, "notebooks", "100k", "runs")


def full_disk_while_pages_are_built(trial: Trial) -> str:
    return full_disk(trial, "sphinx", "3m", "runs", "notebooks", "results")


def read_only(trial: Trial) -> str:
    trial.forget("runs", "html")
    folder = trial.copy.folder
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        line = trial.error()
    finally:
        subprocess.run(["umount", folder], check=True)
    assert trial.copy.files() == trial.pages
    return f"`{line}`; the pages of before are untouched"


def no_network(trial: Trial) -> str:
    trial.forget("runs")
    trial.finish("unshare", "--net", "sh", "-c", 'ip link set lo up 2>/dev/null; exec "$@"', "sh")
    return "the same pages from recorded runs, on a machine that is cut off from every network"


def hostile_surroundings(trial: Trial) -> str:
    """Nothing but the project's folder and a home full of traps can be written to, and /tmp is a new one."""
    trial.forget()
    with tempfile.TemporaryDirectory(prefix="hostile-", dir="/var/tmp") as folder:
        home, temporary = Home(Path(folder)), Path(folder) / "tmp"
        temporary.mkdir()
        folders = [str(path) for path in (home.system, trial.copy.folder, folder)]
        variables = home.environment() | {"TMPDIR": str(temporary)}
        trial.finish("unshare", "--mount", "sh", "-c", AMONG_TRAPS, *folders, trained_again=True, **variables)
        assert not home.written(), home.written()
        assert not home.read(), home.read()
        assert not list(temporary.iterdir()), list(temporary.iterdir())
    return (
        f"the same runs, to the bit, and the same pages with {len(VARIABLES)} environment variables and {len(FILES)} "
        "files, in the home, in XDG folders and in those of the system, all of which set something absurd; no file of "
        "the home was even read, and nothing outside of the project's folder was written"
    )


def other_locale(trial: Trial) -> str:
    trial.forget("runs")
    trial.finish(LC_ALL="C", LANG="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="1", TZ="Pacific/Kiritimati")
    return "the same pages with `LC_ALL=C`, Python's UTF-8 mode on as `make` sets it, and the time zone of Kiritimati"


def no_home(trial: Trial) -> str:
    trial.forget("runs")
    trial.finish(HOME="/nonexistent", TMPDIR="/nonexistent")
    trial.forget("runs")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as home:
        script = 'mount --bind "$HOME" "$HOME"; mount -o remount,ro,bind "$HOME"; ! touch "$HOME/x" 2>&1 && exec "$@"'
        trial.finish("unshare", "--mount", "sh", "-c", script, "sh", HOME=home, TMPDIR=home)
    return "the same pages with `HOME` and `TMPDIR` at a folder that is not there, and at a read-only one"


def other_folders(trial: Trial) -> str:
    """The project in a folder with signs that shells, TeX and templates know, and at the end of a long path."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        long = Path(folder, *(["one more folder of a very long path"] * 12))
        for place in (Path(folder) / STRANGE, long):
            moved = Copy(place)
            shutil.copytree(trial.copy.build_folder / "runs", moved.build_folder / "runs")
            moved.build()
            assert moved.files() == trial.pages, place
    return f"the same pages in a folder called `{STRANGE}`, and in one whose path has {len(str(long))} letters"


def link_and_copy(trial: Trial) -> str:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        link = Path(folder) / "link"
        link.symlink_to(trial.copy.folder, target_is_directory=True)
        trial.forget("runs")
        trial.finish("env", "-C", str(link), PWD=str(link), PYTHONPATH=str(link))
        shutil.copytree(trial.copy.folder, Path(folder) / "copy", symlinks=True)
        moved = Copy(Path(folder) / "copy")
        moved.build()
        assert moved.files() == trial.pages
    return "the same pages from a symbolic link to the folder, and in a copy of the folder that has a built book too"


FAULTS: dict[str, Callable[[Trial], str]] = {
    "SIGKILL of the whole build at random moments": kill_often,
    "a full disk in training": full_disk_in_training,
    "a full disk while executed notebooks are saved": full_disk_while_notebooks_are_saved,
    "a full disk while the pages are built": full_disk_while_pages_are_built,
    "a read-only checkout": read_only,
    "no network when the book is built": no_network,
    "another locale and time zone": other_locale,
    "two hundred settings of other programs": hostile_surroundings,
    "no home, or a read-only one": no_home,
    "a strange name of the project's folder, or a very long one": other_folders,
    "a symbolic link to the project's folder, or a copy of it": link_and_copy,
}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="faults-", dir="/var/tmp") as folder:
        trial = Trial(Path(folder) / "a path" / "prüfung")
        print(f"undisturbed: {trial.seconds:.0f} s, {len(trial.pages)} files", flush=True)
        file = ROOT / "build" / "faults.json"
        before = json.loads(file.read_text("utf-8"))["outcomes"] if sys.argv[1:] and file.exists() else {}
        outcomes = {}
        for fault in sys.argv[1:] or FAULTS:
            outcomes[fault] = FAULTS[fault](trial)
            print(f"{fault}: {outcomes[fault]}", flush=True)
        found = {"machine": provenance.describe("halide"), "undisturbed_seconds": trial.seconds}
        write_json(file, found | {"outcomes": {fault: (before | outcomes)[fault] for fault in FAULTS}})


if __name__ == "__main__":
    main()
