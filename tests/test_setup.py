"""The Makefile and the set-up script, in a folder of their own with a space and an umlaut in its path; no network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from smallcnn.paths import ROOT

# Outer make's variables would change what an inner make does.
INHERITED = (
    "MAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
    "MAKEOVERRIDES",
    "CHAPTER",
    "PARAMS",
    "FRESH",
    "PORT",
    "PYTHON_BOOTSTRAP",
    "TF_CPP_MIN_LOG_LEVEL",
)

# The uv that set this project up, if it was not pip.
UV = shutil.which("uv") or shutil.which("uv", path=Path(sys.prefix, "uv", "bin"))
needs_uv = pytest.mark.skipif(UV is None, reason="no uv on the PATH, and pip set up this environment")

# Stands in for `python -m smallcnn`: only the server is the real one.
COMMAND_LINE = """
import json, os, sys
if sys.argv[1] == "serve":
    from smallcnn.cli import main
    sys.exit(main())
print(json.dumps({"arguments": sys.argv[1:], **os.environ}))
"""
SERVER = ("cli", "checks", "commands", "paths", "study", "report/__init__", "report/parameters")


class Project:
    """A folder with the Makefile and the set-up script of this project, and little else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a path" / "prüfung"
        self.tools = folder / "tools"
        self.tools.mkdir()
        (self.folder / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", self.folder)
        shutil.copy(ROOT / "scripts" / "setup.sh", self.folder / "scripts")
        self.tool("uv", "exit 1")
        self.pin_uv("0" * 64)
        (self.folder / "smallcnn").mkdir()
        (self.folder / "smallcnn" / "__init__.py").touch()
        self.wheel = _write_wheel(folder / "wheels", "tinypackage", {"tinypackage.py": "answer = 42\n"})
        self.require(hashlib.sha256(self.wheel.read_bytes()).hexdigest())

    @property
    def stamp(self) -> Path:
        return self.folder / ".venv" / ".installed"

    def require(self, digest: str) -> None:
        """Makes the tiny wheel, with this hash, the only package of the lock."""
        (self.folder / "requirements.txt").write_text(f"tinypackage==1.0 --hash=sha256:{digest}\n", encoding="utf-8")

    @property
    def python(self) -> Path:
        return self.folder / ".venv" / "bin" / "python"

    def pin_uv(self, digest: str) -> None:
        pinned = self.folder / "scripts" / "requirements-uv.txt"
        pinned.write_text(f"uv==0.99 --hash=sha256:{digest}\n", encoding="utf-8")

    def offer_pinned_uv(self) -> None:
        """Makes the real uv, in a tiny wheel, the pinned one."""
        script = f'#!/bin/sh\nif [ "$*" = --version ]; then echo "uv 0.99 (pinned)"; else exec "{UV}" "$@"; fi\n'
        wheel = _write_wheel(self.wheel.parent, "uv", {"uv-0.99.data/scripts/uv": script}, "0.99")
        self.pin_uv(hashlib.sha256(wheel.read_bytes()).hexdigest())

    def set_up_with(self, way: str) -> None:
        """Leaves one way to install packages: the uv on the PATH, the pinned uv or pip."""
        if way == "uv":
            (self.tools / "uv").unlink()
            (self.tools / "uv").symlink_to(UV)
        elif way == "pinned uv":
            self.offer_pinned_uv()

    def distributions(self) -> set[str]:
        """What is in the environment, without what `python -m venv` itself puts there."""
        listed = "import importlib.metadata as m; print(*(each.name for each in m.distributions()))"
        done = subprocess.run([self.python, "-I", "-c", listed], capture_output=True, text=True, check=True)
        assert "pip" in done.stdout.split()
        return set(done.stdout.split()) - {"pip", "setuptools"}

    def pretend_to_be_set_up(self) -> None:
        self.python.parent.mkdir(parents=True)
        self.python.symlink_to(sys.executable)
        self.stamp.touch()
        (self.folder / "smallcnn" / "report").mkdir()
        (self.folder / "smallcnn" / "__main__.py").write_text(COMMAND_LINE, encoding="utf-8")
        for name in SERVER:
            shutil.copy(ROOT / "smallcnn" / f"{name}.py", self.folder / "smallcnn" / f"{name}.py")

    def tool(self, name: str, script: str) -> None:
        """Puts a shell script called `name` before all other programs."""
        path = self.tools / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if name not in INHERITED}
        inherited = {name: value for name, value in inherited.items() if not name.startswith(("PIP_", "UV_"))}
        return subprocess.run(
            ["make", *arguments],
            cwd=self.folder,
            env=inherited | self._without_network() | environment,
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )

    def _without_network(self) -> dict[str, str]:
        """What keeps pip from the network, and uv, which is told of it."""
        return {
            "PATH": f"{self.tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": self.wheel.parent.as_uri(),
            "UV_CACHE_DIR": str(self.tools.parent / "cache"),
            "UV_HTTP_RETRIES": "0",
        }


def _write_wheel(folder: Path, name: str, files: dict[str, str], version: str = "1.0") -> Path:
    folder.mkdir(exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = (stat.S_IFREG | 0o755) << 16  # pip heeds it where the file is a program
            archive.writestr(entry, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).decode().rstrip("=")
            record += f"{path},sha256={digest},{len(content)}\n"
        archive.writestr(f"{about}/RECORD", f"{record}{about}/RECORD,,\n")
    return wheel


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def ready_project(project: Project) -> Project:
    project.pretend_to_be_set_up()
    return project


def assert_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Checks that make failed with one line (and make's own), that has all `parts`, and left no stamp."""
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert len(lines) == 1, done.stderr
    for part in parts:
        assert part in lines[0]


def test_help_comes_within_a_second(project: Project) -> None:
    def seconds() -> float:
        started = time.perf_counter()
        assert project.make("help").returncode == 0
        return time.perf_counter() - started

    assert min(seconds() for _ in range(3)) < 1


def test_make_alone_lists_every_target(project: Project) -> None:
    done = project.make()
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"book", "preview", "rerun", "test", "lint", "serve", "lock", "clean", "help"} <= set(targets)
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["make", target] for target in targets]
    assert all(re.search(r"\w{3,}", line[len("make parameters") :]) for line in done.stdout.splitlines())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == project.make("help").stdout
    assert not (project.folder / ".venv").exists()


@pytest.mark.parametrize(
    "value",
    [
        "epochs=10 learning_rate=0.003",
        "epochs=$(shell touch harm)",
        "epochs=$$(touch harm) $(touch harm) ${HOME} $HOME $@ $",
        "epochs=`touch harm`; touch harm & touch harm | touch harm > harm",
        "quotes ' \" \\ and # hash % percent ü",
        "two\nlines\n\ttouch harm",
        "$(error harm) $(eval harm:=1) $(info harm)",
    ],
)
def test_parameters_arrive_to_the_letter(ready_project: Project, value: str) -> None:
    for arguments, environment in [
        ([f"CHAPTER={value}", f"PARAMS={value}"], {}),
        ([], {"CHAPTER": value, "PARAMS": value}),
        (["-e"], {"CHAPTER": value, "PARAMS": value}),
        ([f"CHAPTER={value}", f"PARAMS={value}"], {"CHAPTER": "other", "PARAMS": "other"}),
    ]:
        done = ready_project.make("rerun", *arguments, **environment)
        assert done.returncode == 0, done.stderr
        received = json.loads(done.stdout)
        assert received["arguments"] == ["rerun", "--", value, value]
    for arguments, environment in [([f"GRID={value}"], {}), ([], {"GRID": value})]:
        done = ready_project.make("sweep", *arguments, **environment)
        assert json.loads(done.stdout)["arguments"] == ["sweep", "--with=", "--", "", value], done.stderr
    done = ready_project.make("sweep", f"PARAMS={value}")
    assert json.loads(done.stdout)["arguments"] == ["sweep", f"--with={value}", "--", "", ""], done.stderr
    assert not (ready_project.folder / "harm").exists()


def test_book_takes_fresh(ready_project: Project) -> None:
    assert json.loads(ready_project.make("book").stdout)["arguments"] == ["book"]
    assert json.loads(ready_project.make("book", "FRESH=1").stdout)["arguments"] == ["book", "--fresh"]
    assert json.loads(ready_project.make("preview").stdout)["arguments"] == ["book", "--preview"]
    assert "expected FRESH=1" in ready_project.make("book", "FRESH=yes").stderr


def test_tensorflow_is_quiet_unless_asked(ready_project: Project) -> None:
    assert json.loads(ready_project.make("book").stdout)["TF_CPP_MIN_LOG_LEVEL"] == "3"
    assert json.loads(ready_project.make("book", TF_CPP_MIN_LOG_LEVEL="0").stdout)["TF_CPP_MIN_LOG_LEVEL"] == "0"


def test_files_are_utf_8_in_every_locale(ready_project: Project) -> None:
    received = json.loads(ready_project.make("book", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0").stdout)
    assert (received["LC_ALL"], received["PYTHONUTF8"]) == ("C", "1")


def test_a_removed_python_is_noticed(ready_project: Project) -> None:
    assert "setup.sh" not in ready_project.make("-n", "book").stdout
    python = ready_project.folder / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/no/such/python")
    assert "setup.sh" in ready_project.make("-n", "book").stdout


def test_serve_without_a_book_says_so(ready_project: Project) -> None:
    assert_one_line(ready_project.make("serve"), "no book", "make book")


def write_book(project: Project) -> None:
    page = project.folder / "build" / "html" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("the book", encoding="utf-8")


@pytest.mark.parametrize("port", ["0", "-1", "65536", "99999", "abc", "80 80", "$(touch harm)", "8e3", "٨٠٠٠"])
def test_a_wrong_port_is_one_line(ready_project: Project, port: str) -> None:
    write_book(ready_project)
    assert_one_line(ready_project.make("serve", f"PORT={port}"), "PORT is ", "expected a number from 1 to 65535")
    assert not (ready_project.folder / "harm").exists()


def test_a_port_in_use_is_one_line(ready_project: Project) -> None:
    write_book(ready_project)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_one_line(ready_project.make("serve", f"PORT={port}"), f"port {port}: Address already in use")


def test_the_book_is_served_to_this_machine_only(ready_project: Project) -> None:
    write_book(ready_project)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serving = subprocess.Popen(
        ["make", "serve", f"PORT={port}"],
        cwd=ready_project.folder,
        env=os.environ | {"PYTHONPATH": str(ready_project.folder)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(100):
            with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/") as answer:
                assert answer.read() == b"the book"
                break
            time.sleep(0.1)
        children = psutil.Process(serving.pid).children(recursive=True)
        connections = [each for process in children for each in process.net_connections(kind="inet")]
        assert {each.laddr for each in connections if each.status == psutil.CONN_LISTEN} == {("127.0.0.1", port)}
    finally:
        os.killpg(serving.pid, signal.SIGTERM)
        serving.wait()


def test_clean_removes_only_what_is_generated(ready_project: Project) -> None:
    for folder in ("build", "data", "runs"):
        (ready_project.folder / folder).mkdir()
    assert ready_project.make("clean").returncode == 0
    assert not (ready_project.folder / "build").exists()
    assert all((ready_project.folder / folder).exists() for folder in ("data", "runs", ".venv"))


def test_wrong_pythons_are_named(project: Project) -> None:
    project.tool("python3", "echo 3.9 able")
    for name in ("python3.13", "python3.12", "python3.11"):
        project.tool(name, "exit 127")
    done = project.make("setup")
    assert_one_line(done, "3.11, 3.12 or 3.13", "python3 (3.9)", "python3.12 (not found)", "PYTHON_BOOTSTRAP")
    assert_one_line(project.make("setup", "PYTHON_BOOTSTRAP=/no/such/python"), "/no/such/python (not found)")


def test_missing_venv_module_is_named(project: Project) -> None:
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        project.tool(name, "echo 3.12 unable")
    assert_one_line(project.make("setup"), "venv", "apt install python3-venv")


def test_a_suitable_python_further_down_is_found(project: Project) -> None:
    project.tool("python3", "echo 3.14 able")
    project.tool("python3.13", "echo 3.13 unable")
    project.tool("python3.12", "echo 3.12 able")
    done = subprocess.run(
        ["sh", "scripts/setup.sh", "--python"],
        cwd=project.folder,
        env={"PATH": f"{project.tools}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stdout.strip() == str(project.tools / "python3.12")


def test_full_disk_is_noticed_before_anything_is_removed(project: Project) -> None:
    project.tool("df", "echo header; echo disk 9 9 123456 1% /")
    (project.folder / ".venv").mkdir()
    (project.folder / ".venv" / "kept").touch()
    assert_one_line(project.make("setup"), "4 GB", "123 MB")
    assert (project.folder / ".venv" / "kept").exists()


@pytest.fixture(scope="module")
def quick_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What make is told to use a Python which makes environments at once: it copies one."""
    folder = tmp_path_factory.mktemp("quick python")
    subprocess.run([sys.executable, "-m", "venv", folder / "made"], check=True)
    quick = folder / "python"
    quick.write_text(
        f"""#!/bin/sh
if [ "$1 $2 $3" = "-m venv --clear" ]; then rm -rf "$4"; exec cp -R "{folder}/made" "$4"; fi
exec "{sys.executable}" "$@"
""",
        encoding="utf-8",
    )
    quick.chmod(0o755)
    return f"PYTHON_BOOTSTRAP={quick}"


uv_and_pip = pytest.mark.parametrize("way", [pytest.param("uv", marks=needs_uv), "pip"])


@pytest.mark.slow
@uv_and_pip
def test_setup_installs_and_then_rests(project: Project, quick_python: str, way: str) -> None:
    project.set_up_with(way)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    half_made = project.folder / ".venv" / "lib" / version / "site-packages" / "formerly-1.0.dist-info" / "METADATA"
    half_made.parent.mkdir(parents=True)
    half_made.write_text("Metadata-Version: 2.1\nName: formerly\nVersion: 1.0\n", encoding="utf-8")
    done = project.make("setup", f"PYTHON_BOOTSTRAP={sys.executable}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "minute" in done.stdout
    assert ("pip does" in done.stdout) == (way == "pip")
    assert project.distributions() == {"tinypackage"}
    assert project.stamp.exists()
    elsewhere = project.folder / "book"
    elsewhere.mkdir()
    for locale in ("C", "C.UTF-8"):
        imported = subprocess.run(
            [project.python, "-c", "import smallcnn, tinypackage; print(tinypackage.answer)"],
            cwd=elsewhere,
            env={"LC_ALL": locale},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (imported.stdout, imported.stderr) == ("42\n", "")

    project.tool("df", "echo header; echo disk 9 9 0 1% /")  # from here on an installation would fail
    assert project.make("setup").returncode == 0
    os.utime(project.folder / "requirements.txt")  # as git does; the content is the same
    assert project.make("setup").returncode == 0
    (project.tools / "df").unlink()

    project.require("0" * 64)
    done = project.make("setup", quick_python)
    assert_one_line(done, "hash", "build/setup.log")
    assert ("pip does" in done.stdout) == (way == "pip")
    assert project.distributions() == set()
    assert not project.stamp.exists()


@pytest.mark.slow
@uv_and_pip
def test_no_network_is_one_line(project: Project, quick_python: str, way: str) -> None:
    project.set_up_with(way)
    done = project.make(
        "setup",
        quick_python,
        PIP_NO_INDEX="0",
        PIP_FIND_LINKS="",
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_RETRIES="1",
        NO_PROXY="127.0.0.1",
    )
    assert_one_line(done, "no connection", "build/setup.log")
    assert not project.stamp.exists()


@pytest.mark.slow
@needs_uv
def test_without_uv_the_pinned_one_stands_beside_the_packages(project: Project, quick_python: str) -> None:
    project.tool("uv", "echo uv 0.4.30")  # too old
    project.offer_pinned_uv()
    done = project.make("setup", quick_python)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pip does" not in done.stdout
    assert project.distributions() == {"tinypackage"}
    assert (project.folder / ".venv" / "uv" / "bin" / "uv").exists()


@pytest.mark.slow
def test_a_pinned_uv_that_is_another_is_not_run(project: Project, quick_python: str) -> None:
    project.offer_pinned_uv()
    project.pin_uv("0" * 64)
    assert_one_line(project.make("setup", quick_python), "hash", "build/setup.log")
    assert not (project.folder / ".venv" / "uv").exists()


@pytest.mark.slow
def test_where_uv_fails_pip_installs(project: Project, quick_python: str) -> None:
    """This uv leaves half of something, as one that a signal ends."""
    project.tool(
        "uv",
        'if [ "$1" = --version ]; then echo uv 0.99; exit; fi\n'
        "cp -r .venv/lib/python3.*/site-packages/pip .venv/lib/python3.*/site-packages/half\n"
        "echo a uv that fails >&2; kill -9 $$",
    )
    done = project.make("setup", quick_python)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pip does" in done.stdout
    assert "a uv that fails" in (project.folder / "build" / "setup.log.uv").read_text(encoding="utf-8")
    assert project.distributions() == {"tinypackage"}
    assert not list(project.folder.glob(".venv/lib/python3.*/site-packages/half"))


@pytest.mark.slow
@needs_uv
def test_uv_takes_the_index_of_pip_and_no_settings_that_change_what_is_installed(
    project: Project, quick_python: str
) -> None:
    project.set_up_with("uv")
    page = project.tools.parent / "index" / "tinypackage" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="{project.wheel.as_uri()}">{project.wheel.name}</a>', encoding="utf-8")
    settings = project.tools / "pip.conf"
    settings.write_text(f"[global]\nindex-url = {page.parents[1].as_uri()}\n", encoding="utf-8")
    (project.folder / "uv.toml").write_text("[pip]\nno-binary = ['tinypackage']\n", encoding="utf-8")
    done = project.make(
        "setup",
        quick_python,
        PIP_NO_INDEX="",
        PIP_FIND_LINKS="",
        PIP_CONFIG_FILE=str(settings),
        UV_PYTHON="/no/such/python",
        UV_NO_BINARY="1",
        UV_EXCLUDE_NEWER="2000-01-01",
        UV_CONSTRAINT="/no/such/file",
        UV_LINK_MODE="symlink",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "pip does" not in done.stdout
    assert project.distributions() == {"tinypackage"}
    assert not [
        each for each in project.folder.glob(".venv/lib/python3.*/site-packages/tinypackage*") if each.is_symlink()
    ]
