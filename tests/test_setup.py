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
    "GRID",
    "FRESH",
    "PORT",
    "PYTHON_BOOTSTRAP",
    "MINUTES",
    "SAMPLE",
    "KEYS",
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
# A module, and a script that says which Python and which module it runs with.
TINY_PACKAGE = {
    "tinypackage.py": "answer = 42\n",
    "tinypackage-1.0.data/scripts/tiny": """#!python
import sys, tinypackage
print(sys.prefix)
print(tinypackage.__file__)
""",
}
SERVER = ("cli", "checks", "commands", "paths", "study", "report/__init__", "report/parameters")


class Project:
    """A folder with the Makefile and the set-up script of this project, and little else."""

    def __init__(self, folder: Path, name: str = "a path/prüfung") -> None:
        self.folder = folder / name
        self.tools = folder / "tools"
        self.tools.mkdir()
        (self.folder / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", self.folder)
        for script in ("setup.sh", "pip_settings.py", "check_environment.py"):
            shutil.copy(ROOT / "scripts" / script, self.folder / "scripts")
        self.tool("uv", "exit 1")
        self.pin_uv("0" * 64)
        (self.folder / "smallcnn").mkdir()
        (self.folder / "smallcnn" / "__init__.py").touch()
        self.wheel = _write_wheel(folder / "wheels", "tinypackage", TINY_PACKAGE)
        self.require(hashlib.sha256(self.wheel.read_bytes()).hexdigest())

    @property
    def stamp(self) -> Path:
        return self.folder / ".venv" / ".installed"

    def require(self, digest: str) -> None:
        """Makes the tiny wheel, with this hash, the only package of the lock."""
        (self.folder / "requirements.in").write_text("tinypackage  # the only one\n", encoding="utf-8")
        lock = f"# a lock\ntinypackage==1.0 ; python_version > '3' \\\n    --hash=sha256:{digest}\n    # via nobody\n"
        other = "elsewhere==1.0 ; sys_platform == 'elsewhere' --hash=sha256:" + "0" * 64
        (self.folder / "requirements.txt").write_text(lock + other + "\n", encoding="utf-8")

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

    @property
    def packages(self) -> Path:
        (found,) = self.folder.glob(".venv/lib/python3.*/site-packages")
        return found

    def distributions(self) -> set[str]:
        """What is in the environment, without what `python -m venv` itself puts there."""
        names = {each.name.partition("-")[0] for each in self.packages.glob("*.dist-info")}
        assert "pip" in names
        return names - {"pip", "setuptools"}

    def installed(self) -> dict[str, bytes]:
        """Every file of the environment's packages, but for bytecode and for what says who installed it."""
        by_whom = ("INSTALLER", "RECORD", "REQUESTED", "uv_cache.json")
        files = [each for each in self.packages.rglob("*") if each.is_file() and each.suffix != ".pyc"]
        return {str(each.relative_to(self.packages)): each.read_bytes() for each in files if each.name not in by_whom}

    def assert_runs_its_own(self) -> None:
        """Checks that the script of the tiny package runs this environment's Python and module."""
        done = subprocess.run([self.folder / ".venv" / "bin" / "tiny"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [str(self.folder / ".venv"), str(self.packages / "tinypackage.py")]

    def pretend_to_be_set_up(self) -> None:
        self.python.parent.mkdir(parents=True)
        self.python.symlink_to(sys.executable)
        self.stamp.write_text(f"checksum\n{self.folder.resolve()}\n", encoding="utf-8")
        (self.folder / "smallcnn" / "report").mkdir()
        (self.folder / "smallcnn" / "__main__.py").write_text(COMMAND_LINE, encoding="utf-8")
        for name in SERVER:
            shutil.copy(ROOT / "smallcnn" / f"{name}.py", self.folder / "smallcnn" / f"{name}.py")

    def tool(self, name: str, script: str) -> None:
        """Puts a shell script called `name` before all other programs."""
        path = self.tools / name
        path.unlink(missing_ok=True)  # it may be a link to a real program
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
    """What make is told to use a Python which makes environments at once: it copies one, with a link to its pip."""
    folder = tmp_path_factory.mktemp("quick python")
    subprocess.run([sys.executable, "-m", "venv", folder / "made"], check=True)
    (packages,) = folder.glob("made/lib/python3.*/site-packages")
    (packages / "pip").rename(folder / "pip")
    (packages / "pip").symlink_to(folder / "pip")
    for name in ("setuptools", "pkg_resources"):
        shutil.rmtree(packages / name, ignore_errors=True)
    quick = folder / "python"
    quick.write_text(
        f"""#!/bin/sh
if [ "$1 $2 $3 $4" = "-I -m venv --clear" ]; then rm -rf "$5"; exec cp -R "{folder}/made" "$5"; fi
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
    done = project.make("setup", quick_python)
    assert (done.returncode, done.stderr) == (0, "")
    assert "minute" in done.stdout
    assert ("pip does" in done.stdout) == (way == "pip")
    assert project.distributions() == {"tinypackage"}
    project.assert_runs_its_own()
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


HOSTILE_PIP = """
[global]
index-url = {index}
quiet = 3
log = {outside}/log
python = /no/such/python
require-virtualenv = true
[install]
target = {outside}/target
user = true
prefix = {outside}/prefix
root = {outside}/root
report = {outside}/report
constraint = /no/such/file
only-binary = :none:
no-binary = :all:
no-deps = true
dry-run = true
ignore-installed = false
"""


def hostile_settings(project: Project, outside: Path) -> dict[str, str]:
    """What once changed, or could change, what is installed or where; of all this, only the index counts."""
    page = project.tools.parent / "index" / "tinypackage" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="{project.wheel.as_uri()}">{project.wheel.name}</a>', encoding="utf-8")
    settings = project.tools / "pip.conf"
    settings.write_text(HOSTILE_PIP.format(index=page.parents[1].as_uri(), outside=outside), encoding="utf-8")
    (project.folder / "uv.toml").write_text("[pip]\nno-binary = ['tinypackage']\n", encoding="utf-8")
    project.tool("rustc", "exit 1")  # pip asks it for its version; some keep files of their own
    shadow = project.tools.parent / "shadow"
    with zipfile.ZipFile(project.wheel) as archive:
        archive.extractall(shadow)
    startup = project.tools / "startup"
    startup.write_text(f"touch {outside}/harm; echo harm\n", encoding="utf-8")
    return {
        "PIP_CONFIG_FILE": str(settings),
        "PIP_NO_INDEX": "",
        "PIP_FIND_LINKS": "",
        "PIP_TARGET": str(outside / "target"),
        "PIP_USER": "1",
        "PIP_NO_BINARY": ":all:",
        "PIP_LOG": str(outside / "log"),
        "PYTHONPATH": str(shadow),
        "PYTHONHOME": str(outside),
        "PYTHONSTARTUP": str(startup),
        "PYTHONUSERBASE": str(outside),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPYCACHEPREFIX": str(outside),
        "PYTHONWARNINGS": "error",
        "PYTHONOPTIMIZE": "2",
        "PYTHONSAFEPATH": "1",
        "UV_PYTHON": "/no/such/python",
        "UV_PROJECT_ENVIRONMENT": str(outside),
        "UV_NO_BINARY": "1",
        "UV_EXCLUDE_NEWER": "2000-01-01",
        "UV_CONSTRAINT": "/no/such/file",
        "UV_LINK_MODE": "symlink",
        "UV_CONFIG_FILE": "/no/such/file",
        "VIRTUAL_ENV": str(outside),
        "CONDA_PREFIX": str(outside),
        "CDPATH": "/",
        "ENV": str(startup),
        "BASH_ENV": str(startup),
        "GREP_OPTIONS": "--invert-match",
        "POSIXLY_CORRECT": "1",
        "SHELLOPTS": "noclobber",
        "BASH_FUNC_mkdir%%": "() { echo harm; }",
        "LC_ALL": "no_SUCH.ISO-8859-1",
        "LANGUAGE": "de",
        "HOME": str(outside),
        "XDG_CACHE_HOME": str(project.tools.parent / "cache"),
        "TMPDIR": str(outside / "tmp"),
        "no such name": "two\nHOME=lines",
        "two_lines": "one\nPATH=other\n*=",
    }


@pytest.mark.slow
@uv_and_pip
def test_settings_that_change_what_is_installed_do_not_count(
    project: Project, made_project: Project, quick_python: str, way: str
) -> None:
    project.set_up_with(way)
    outside = project.tools.parent / "outside"
    (outside / "tmp").mkdir(parents=True)
    settings = hostile_settings(project, outside)
    python = f"PYTHON_BOOTSTRAP={sys.executable}"  # a Python that really makes an environment, with a usual shell
    if way == "pip" and (bash := shutil.which("bash")):
        (project.tools / "sh").symlink_to(bash)
        settings["LC_ALL"] = "C"  # bash itself warns of one that does not exist
        python = quick_python
    before = {each for each in project.tools.parent.rglob("*") if project.folder not in each.parents}
    done = project.make("setup", python, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("pip does" in done.stdout) == (way == "pip")
    after = {each for each in project.tools.parent.rglob("*") if project.folder not in each.parents}
    written = {each.relative_to(project.tools.parent).parts[0] for each in after - before}
    assert written <= {"cache"}
    expected = {
        name: content for name, content in made_project.installed().items() if name.startswith(("tiny", "small"))
    }
    installed = project.installed()
    assert {name: installed.get(name) for name in expected} == expected
    assert project.distributions() == made_project.distributions() == {"tinypackage"}
    assert not [each for each in project.packages.rglob("tinypackage*") if each.is_symlink()]
    assert list(project.packages.glob("__pycache__/tinypackage.*.pyc"))
    project.assert_runs_its_own()


@pytest.fixture(scope="module")
def made_project(tmp_path_factory: pytest.TempPathFactory, quick_python: str) -> Project:
    """One that is set up, to copy."""
    project = Project(tmp_path_factory.mktemp("made"))
    project.set_up_with("uv" if UV else "pip")
    assert project.make("setup", quick_python).returncode == 0
    return project


def copied(project: Project, folder: Path) -> Project:
    """A copy of a project that is set up, which says so to nobody."""
    copy = Project.__new__(Project)
    copy.__dict__.update(project.__dict__)
    copy.folder = folder
    shutil.copytree(project.folder, folder, symlinks=True)
    return copy


@pytest.mark.slow
def test_a_copied_and_renamed_folder_runs_its_own(made_project: Project, tmp_path: Path) -> None:
    copy = copied(made_project, tmp_path / "a copy's {place}")
    copy.assert_runs_its_own()
    copy.tool("uv", "exit 1")  # nothing is installed from here on
    done = copy.make("setup", PIP_FIND_LINKS="")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["Set-up: this folder was moved or copied, so .venv is set to its new place."]
    assert copy.make("setup").stdout.startswith("make: Nothing to be done")
    old = str(made_project.folder).encode()
    naming_it = [each for each in copy.folder.rglob("*") if each.is_file() and each.suffix != ".pyc"]
    assert [each for each in naming_it if old in each.read_bytes()] == []

    copy.folder = copy.folder.rename(tmp_path / "renamed")  # and now the old place is gone
    copy.assert_runs_its_own()
    shell = f". {copy.folder}/.venv/bin/activate && command -v python && command -v tiny"
    for message in ("moved or copied", "Nothing to be done"):
        assert message in copy.make("setup").stdout
    found = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == [str(copy.folder / ".venv" / "bin" / name) for name in ("python", "tiny")]
    copy.assert_runs_its_own()


@pytest.mark.slow
def test_a_copy_of_a_broken_environment_is_made_anew(made_project: Project, tmp_path: Path, quick_python: str) -> None:
    copy = copied(made_project, tmp_path / "copy")
    (copy.packages / "tinypackage.py").unlink()
    done = copy.make("setup", quick_python)
    assert (done.returncode, done.stderr) == (0, "")
    assert "tinypackage==1.0 of requirements.txt lacks 1 of its" in done.stdout
    assert "installed anew" in done.stdout
    copy.assert_runs_its_own()


def finish(project: Project) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            project.python,
            "-I",
            "scripts/check_environment.py",
            "requirements.txt",
            "requirements.in",
            project.stamp,
            "0",
        ],
        cwd=project.folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_scripts_of_every_form_find_the_python_beside_them(made_project: Project, tmp_path: Path) -> None:
    copy = copied(made_project, tmp_path / "copy")
    scripts = copy.folder / ".venv" / "bin"
    forms = {
        "plain": "#!/no/such/bin/python",
        "option": "#!/no/such/bin/python3.11 -s",
        "env": "#!/usr/bin/env python3",
        "long": "#!/bin/sh\n'''exec' \"/no such/bin/python3\" \"$0\" \"$@\"\n' '''",
    }
    for name, form in forms.items():
        (scripts / name).write_text(f"{form}\nimport sys\nprint(sys.prefix, sys.argv[1:])\n", encoding="utf-8")
        (scripts / name).chmod(0o755)
        (tmp_path / name).symlink_to(scripts / name)
    others = {"shell": b"#!/bin/sh\necho python\n", "program": b"\x7fELF python\n"}
    for name, content in others.items():
        (scripts / name).write_bytes(content)
    assert finish(copy).returncode == 0
    for name in forms:
        for path in (scripts / name, tmp_path / name):
            printed = subprocess.run([path, "a b"], capture_output=True, text=True, check=True).stdout
            assert printed == f"{scripts.parent} ['a b']\n"
    assert {name: (scripts / name).read_bytes() for name in others} == others


@pytest.mark.slow
def test_what_is_not_as_locked_is_named(made_project: Project, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    for harm, message in [
        ("rm -r tinypackage*", "is missing"),
        ("rm tinypackage.py", "such as tinypackage.py"),
        ("rm tinypackage-1.0.dist-info/RECORD", "such as RECORD"),
        ("sed -i.old 's/1[.]0/2.0/' tinypackage-1.0.dist-info/METADATA", "is there as version 2.0"),
        ("echo \"raise OSError('no' + chr(10) + 'library')\" > tinypackage.py", "be imported (OSError: no library)"),
        (
            f"mv tinypackage.py '{tmp_path}'; ln -s '{tmp_path}'/tinypackage.py; echo 1/0 > tinypackage.py",
            "ZeroDivision",
        ),
        (
            f"""mv tinypackage.py '{tmp_path}'; ln -s '{tmp_path}'/tinypackage.py .
            echo 'import sys; sys.path.insert(0, "{tmp_path}")' > a.pth""",
            "gives the module tinypackage from",
        ),
    ]:
        copy = copied(made_project, copies / str(len(list(tmp_path.rglob("copy")))) / "copy")
        copy.stamp.unlink()
        subprocess.run(["sh", "-c", harm], cwd=copy.packages, check=True)
        done = finish(copy)
        assert (done.returncode, len(done.stdout.splitlines())) == (1, 1), harm
        assert done.stdout.startswith("tinypackage==1.0 of requirements.txt ")
        assert message in done.stdout
        assert not copy.stamp.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("installs", "message"),
    [
        ("", "tinypackage==1.0 of requirements.txt is missing"),
        ("rm .venv/bin/python", "what was installed does not work"),
    ],
)
def test_an_environment_that_is_not_as_locked_does_not_count(
    project: Project, quick_python: str, installs: str, message: str
) -> None:
    """This uv says that it installed."""
    project.tool("uv", f'case "$1 $2" in --version*) echo uv 0.99;; "pip sync") {installs or ":"};; esac')
    assert_one_line(project.make("setup", quick_python), message, "run make again", "build/setup.log")
    assert not project.stamp.exists()


@pytest.mark.slow
def test_any_folder_will_do(tmp_path: Path, quick_python: str) -> None:
    """Reached by a symbolic link with `make -C`, with a home that cannot be written."""
    project = Project(tmp_path, "-n {a} [b] 'c' \"d\" %e% #f $g `h` \\i 🙂 *?")
    project.set_up_with("uv" if UV else "pip")
    link = tmp_path / "-link"
    link.symlink_to(project.folder)
    project.folder, physical = tmp_path, project.folder
    nowhere = "/dev/null/home"
    done = project.make("-C", "./-link", "setup", quick_python, HOME=nowhere, UV_CACHE_DIR="", XDG_CACHE_HOME="")
    project.folder = physical
    assert (done.returncode, done.stderr) == (0, "")
    assert not UV or "pip does" not in done.stdout
    project.assert_runs_its_own()
    assert sorted(each.name for each in physical.iterdir()) == [
        ".venv",
        "Makefile",
        "build",
        "requirements.in",
        "requirements.txt",
        "scripts",
        "smallcnn",
    ]
    assert not (physical / ".venv" / "tmp").exists()
    assert "Nothing to be done" in project.make("setup").stdout


def test_a_colon_in_the_path_is_one_line(tmp_path: Path) -> None:
    assert_one_line(Project(tmp_path, "a:b").make("setup"), "colon", "rename")


def test_a_folder_that_cannot_be_written_is_one_line(project: Project) -> None:
    (project.folder / "build").touch()
    assert_one_line(project.make("setup"), "build/setup.log", "make the folder writable")
    (project.folder / "build").unlink()
    (project.folder / ".venv").touch()
    assert_one_line(project.make("setup"), "could not make .venv", "writable")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_line(project: Project) -> None:
    project.folder.chmod(0o555)
    try:
        assert_one_line(project.make("setup"), "build/setup.log", "make the folder writable")
    finally:
        project.folder.chmod(0o755)


@pytest.mark.parametrize(
    ("word", "suggestion"),
    [
        ("PARAM=epochs=3", "did you mean PARAMS=…?"),
        ("params=epochs=3", "did you mean PARAMS=…?"),
        ("CHAPTR=approach_2", "did you mean CHAPTER=…?"),
        ("CHAP:=approach_2", "did you mean CHAPTER=…?"),
        ("PYTHON=python3", "did you mean PYTHON_BOOTSTRAP=…?"),
        ("EPOCHS=3", 'PARAMS="epochs=10"'),
        ("EPOCHS+=3", 'PARAMS="epochs=10"'),
        ("learning_rate=$(touch harm)", 'PARAMS="epochs=10"'),
        ("';>harm;'=1", 'PARAMS="epochs=10"'),
    ],
)
def test_an_unknown_word_is_refused_before_anything_starts(ready_project: Project, word: str, suggestion: str) -> None:
    for target in ("rerun", "help", "setup"):
        done = ready_project.make(target, "CHAPTER=approach_2", word)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1
        assert "is not known here" in done.stderr
        assert suggestion in done.stderr
    assert not (ready_project.folder / "harm").exists()


def test_words_that_mean_something_are_known(ready_project: Project) -> None:
    known = ("CHAPTER", "PARAMS", "GRID", "PORT", "PYTHON_BOOTSTRAP", "MINUTES", "SAMPLE", "KEYS")
    documented = re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(documented) >= 5
    done = ready_project.make(
        "book", "FRESH=1", *(f"{name}=1" for name in (*known, *documented)), PARAM="1", EPOCHS="3"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {json.loads(done.stdout)[name] for name in documented} == {"1"}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git repository")
def test_git_changes_no_byte_whatever_it_is_told_of_line_ends(tmp_path: Path) -> None:
    def git(*arguments: str | Path, given: str | None = None) -> str:
        done = subprocess.run(["git", *arguments], input=given, capture_output=True, encoding="utf-8", check=True)
        return done.stdout

    git("clone", "-q", "--shared", "-c", "core.autocrlf=true", "-c", "core.eol=crlf", ROOT, tmp_path / "clone")
    listed = [line.split("\t") for line in git("-C", tmp_path / "clone", "ls-files", "--stage").splitlines()]
    names = "".join(f"{name}\n" for _, name in listed)
    sums = git("-C", tmp_path / "clone", "hash-object", "--no-filters", "--stdin-paths", given=names).split()
    assert len(listed) > 100
    assert dict(zip([name for _, name in listed], sums, strict=True)) == {
        name: about.split()[1] for about, name in listed
    }
