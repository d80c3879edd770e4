"""The chapters in a real JupyterLab, in a browser: what a student sees who opens one, changes it and runs it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Error, sync_playwright
from playwright.sync_api import Page as Tab

from smallcnn import data
from smallcnn.paths import ROOT, mnist_file
from smallcnn.study import CHAPTERS

pytestmark = pytest.mark.slow

SECONDS = 180  # that a condition is awaited; a busy machine may need many times what a quiet one does
PARAMETERS, CHAPTER, NETWORK, DIAGRAM, LAYERS, TRAINING, CURVES, RUNS = 1, 2, 4, 5, 6, 9, 10, 13  # cells of approach 2
SETTINGS = {
    "apputils-extension/themes": {"theme": "JupyterLab Dark"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},  # every cell is in the page, seen or not
}
RAW = re.compile(r":::|```|\{(cite|ref|doc|numref|eq|figure|note)[^}]*\}|\]\(|</?\w+>")

# What the tests ask of the notebook that JupyterLab shows.
SCRIPT = """
window.panel = () => jupyterapp.shell.currentWidget;
window.cell = (number) => panel().content.widgets[number];
window.select = (number) => { panel().content.deselectAll(); panel().content.activeCellIndex = number; };
window.start = (command) => {
  window.isOver = false;
  jupyterapp.commands.execute(command).finally(() => { window.isOver = true; });
};
window.mostBars = 0;
new MutationObserver(() => {
  window.mostBars = Math.max(window.mostBars, document.querySelectorAll("progress").length);
}).observe(document, {childList: true, subtree: true});
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium: the system's, or else the one that Playwright installed."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=options)
        except Error:
            if found:
                raise
            pytest.skip("no browser was found; install Chromium (on Debian: apt install chromium) to test JupyterLab")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, whose notebooks may be saved."""
    folder = tmp_path_factory.mktemp("jupyterlab") / "project"
    for name in ("smallcnn", "book", "runs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return folder


@pytest.fixture(scope="module")
def environment(project: Path) -> dict[str, str]:
    data.load_mnist()  # so that there is a local copy of it
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("SMALLCNN_", "DASK_", "JUPYTER"))}
    settings = project.parent / "settings"
    for name, values in SETTINGS.items():
        file = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")
    folders = {f"JUPYTER_{name}_DIR": str(project.parent / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    lab = {"JUPYTERLAB_SETTINGS_DIR": str(settings), "JUPYTERLAB_WORKSPACES_DIR": str(project.parent / "workspaces")}
    package = {"PYTHONPATH": str(project), "SMALLCNN_MNIST": str(mnist_file())}
    return ours | folders | lab | package | {"IPYTHONDIR": str(project.parent / "ipython")}


@pytest.fixture(scope="module")
def address(project: Path, environment: dict[str, str], browser: Browser) -> Iterator[str]:
    """That of a JupyterLab which shows the copy's `book`, as README.md says to start it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    options += ["--IdentityProvider.token=", "--expose-app-in-browser"]
    log = project.parent / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "book/", *options],
            cwd=project,
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        wait_for_answer(f"{address}/api", server, log)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:  # it has been seen to wait for one of its threads
            server.kill()  # its kernels end by themselves when it is gone
            server.wait()


def wait_for_answer(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()}")


class Notebook:
    """A chapter that is open in JupyterLab."""

    def __init__(self, tab: Tab, name: str, has_kernel: bool = True) -> None:
        self.tab = tab
        how = {"path": f"{name}.ipynb"}
        if not has_kernel:
            how["kernelPreference"] = {"shouldStart": False, "canStart": False, "autoStartDefault": False}
        tab.evaluate("async (how) => { await jupyterapp.commands.execute('docmanager:open', how) }", how)
        self.wait(f"panel()?.context?.path === '{name}.ipynb' && panel().context.isReady")
        self.wait("panel().content.widgets.every((cell) => cell.model.type !== 'markdown' || cell.rendered)")
        if has_kernel:
            self.wait("panel().sessionContext.session?.kernel?.status === 'idle'")
        self.count: int = tab.evaluate("panel().content.widgets.length")
        self.keep()

    def keep(self) -> None:
        """Takes the cells as they are now for those to change, and to restore."""
        self._sources = [self.source(cell) for cell in range(self.count)]

    def wait(self, condition: str) -> None:
        self.tab.wait_for_function(f"() => {condition}", timeout=1000 * SECONDS)

    def source(self, cell: int) -> str:
        return str(self.tab.evaluate("(number) => cell(number).model.sharedModel.getSource()", cell))

    def type(self, cell: int, source: str) -> None:
        self.tab.evaluate("([number, text]) => cell(number).model.sharedModel.setSource(text)", [cell, source])

    def change(self, cell: int, *changes: tuple[str, str]) -> None:
        """Puts other text in the place of some in a cell."""
        source = self._sources[cell]
        for old, new in changes:
            assert old in source
            source = source.replace(old, new)
        self.type(cell, source)

    def restore(self) -> None:
        for cell, source in enumerate(self._sources):
            if self.source(cell) != source:
                self.type(cell, source)

    def start(self, command: str, cell: int = 0) -> None:
        self.tab.evaluate("([command, number]) => { select(number); start(`notebook:${command}`) }", [command, cell])

    def finish(self) -> None:
        self.wait("window.isOver")

    def run(self, *cells: int) -> None:
        for cell in cells:
            self.start("run-cell", cell)
            self.finish()

    def outputs(self, cell: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.tab.evaluate("(number) => cell(number).model.outputs?.toJSON() ?? []", cell)
        return found

    def text(self, cell: int) -> str:
        """What stands below a cell, as a reader sees it."""
        shown = "(number) => cell(number).node.querySelector('.jp-Cell-outputArea')?.textContent ?? ''"
        return str(self.tab.evaluate(shown, cell))

    def error(self, cell: int) -> str:
        """The error below a cell, whose text is all that is shown of it."""
        errors = [output for output in self.outputs(cell) if output["output_type"] == "error"]
        assert len(errors) == 1, self.outputs(cell)
        lines = "".join(errors[0]["traceback"]).splitlines()
        assert len(lines) == 1, lines
        return str(lines[0])


def open_lab(browser: Browser, address: str) -> Tab:
    tab = browser.new_context(viewport={"width": 1300, "height": 1000}).new_page()
    tab.set_default_timeout(1000 * SECONDS)
    tab.goto(f"{address}/lab?reset")
    tab.wait_for_function("() => window.jupyterapp")
    tab.evaluate("async () => { await jupyterapp.restored }")
    tab.evaluate(SCRIPT)
    return tab


@pytest.fixture(scope="module")
def reader(browser: Browser, address: str) -> Iterator[Tab]:
    """JupyterLab, to open chapters in that are not run."""
    tab = open_lab(browser, address)
    yield tab
    tab.context.close()


@pytest.fixture(scope="module")
def opened(browser: Browser, address: str) -> Iterator[Notebook]:
    """Approach 2 with few images and epochs, all of its cells run once, in the dark theme."""
    notebook = Notebook(open_lab(browser, address), "approach_2")
    small = (
        ("train_examples: int = 60000", "train_examples: int = 2000"),
        ("seeds: list[int] = [0, 1, 2]", "seeds = [0]"),
    )
    notebook.change(PARAMETERS, *small, ("epochs: int = 40", "epochs: int = 2"))
    notebook.keep()
    notebook.start("run-all-cells")
    notebook.finish()
    yield notebook
    notebook.tab.context.close()


@pytest.fixture
def notebook(opened: Notebook) -> Iterator[Notebook]:
    yield opened
    opened.restore()
    opened.run(PARAMETERS, CHAPTER, NETWORK)


def records(project: Path) -> dict[str, dict[str, Any]]:
    """The student's own runs by key."""
    found = (project / "data" / "runs").glob("[!.]*/run.json")
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in found}


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_opens_without_raw_markup_and_with_its_code_folded(reader: Tab, name: str) -> None:
    notebook = Notebook(reader, name, has_kernel=False)
    for number in range(notebook.count):
        rendered = f"cell({number}).node.querySelector('.jp-MarkdownOutput')?.textContent"
        notebook.wait(f"cell({number}).model.type === 'code' || {rendered}")
        kind, tags, is_folded, text = reader.evaluate(
            """(number) => [cell(number).model.type, cell(number).model.getMetadata('tags') ?? [],
            cell(number).inputHidden, cell(number).node.querySelector('.jp-MarkdownOutput')?.textContent ?? '']""",
            number,
        )
        if kind == "markdown":
            assert text and not RAW.search(text), text
        else:
            assert is_folded == (bool({"hide-input", "hide-cell"} & set(tags)) and "parameters" not in tags), number


def test_all_of_a_chapter_runs_and_nothing_is_in_the_way(opened: Notebook, project: Path) -> None:
    tab = opened.tab
    for cell in range(opened.count):
        for output in opened.outputs(cell):
            assert output["output_type"] != "error" and output.get("name") != "stderr", output
    assert re.search(r"epochs is 2 instead of 40.*train_examples is 2000 instead of 60000", opened.text(CHAPTER))
    assert "seeds is [0] instead of [0, 1, 2]" in opened.text(CHAPTER)
    assert "5,4905,382" in opened.text(LAYERS)
    assert opened.text(TRAINING) == ""  # nothing is left of the bars
    assert tab.evaluate("window.mostBars") == 1
    assert {record["config"]["train_examples"] for record in records(project).values()} == {2000}
    widths = tab.evaluate(
        "[...document.querySelectorAll('.jp-Notebook .jp-OutputArea')].map((n) => [n.scrollWidth, n.clientWidth])"
    )
    assert all(content <= room + 1 for content, room in widths), widths
    align = "(kind) => getComputedStyle(document.querySelector(`.results td.${kind}`)).textAlign"
    assert (tab.evaluate(align, "text"), tab.evaluate(align, "number")) == ("left", "right")


def test_figures_are_no_white_boxes_in_the_dark_theme(opened: Notebook) -> None:
    assert opened.tab.evaluate("document.body.dataset.jpThemeLight") == "false"
    figures = opened.tab.locator(".jp-Notebook figure.picture")
    assert figures.count() == 3
    for number in range(figures.count()):
        assert figures.nth(number).locator("figcaption").inner_text()
        picture = Image.open(io.BytesIO(figures.nth(number).locator("svg").first.screenshot())).convert("L")
        corners = [picture.getpixel((x, y)) for x in (3, picture.width - 4) for y in (3, picture.height - 4)]
        assert max(corners) < 60, f"figure {number}: {corners}"
        assert picture.getextrema()[1] > 180, f"figure {number}: its ink is dark too"


def test_changed_values_are_trained_by_every_worker_and_shown(notebook: Notebook, project: Path) -> None:
    before = records(project)
    notebook.change(
        PARAMETERS,
        ("filters: list[int] = [4, 8, 16, 16, 10]", "filters = [4, 8, 10]"),
        ("dropout_after: list[int] = [3, 4, 5]", "dropout_after = [3]"),
        ("seeds = [0]", "seeds = [0, 1]"),
    )
    notebook.type(PARAMETERS, notebook.source(PARAMETERS) + "\nprint(epochs)")
    notebook.tab.evaluate("window.mostBars = 0")
    notebook.start("run-all-cells")
    notebook.finish()
    assert notebook.text(PARAMETERS) == "2\n"
    assert "filters is [4, 8, 10] instead of [4, 8, 16, 16, 10]" in notebook.text(CHAPTER)
    assert "1,1541,110" in notebook.text(LAYERS)
    assert notebook.text(TRAINING) == ""
    assert notebook.tab.evaluate("window.mostBars") >= 1
    new = [record["config"] for key, record in records(project).items() if key not in before]
    assert sorted(config["seed"] for config in new) == [0, 1]
    for config in new:
        convolutions = [layer for layer in config["architecture"] if layer["kind"] == "convolution"]
        assert [layer["filters"] for layer in convolutions] == [4, 8, 10]
        assert config["epochs"] == 2


def test_an_inserted_layer_is_trained_saved_and_found_again(
    notebook: Notebook, project: Path, environment: dict[str, str]
) -> None:
    before = records(project)
    notebook.change(NETWORK, ("*blocks, *heads", "*blocks[:5], layers.Dropout(0.25), *blocks[5:], *heads"))
    notebook.start("run-all-below", NETWORK)
    notebook.finish()
    assert "dropout 25 %" in notebook.text(LAYERS)
    (record,) = (record for key, record in records(project).items() if key not in before)
    kinds = [layer["kind"] for layer in record["config"]["architecture"]]
    place = kinds.index("max_pooling")
    assert record["config"]["architecture"][place + 1] == {"kind": "dropout", "rate": 0.25}
    notebook.start("run-all-below", NETWORK)
    notebook.finish()
    assert len(records(project)) == len(before) + 1

    notebook.tab.evaluate("() => { start('docmanager:save') }")
    notebook.finish()
    saved = json.loads((project / "book" / "approach_2.ipynb").read_text(encoding="utf-8"))
    assert "layers.Dropout(0.25)" in "".join(saved["cells"][NETWORK]["source"])
    assert saved["cells"][NETWORK + 1]["outputs"]
    code = (
        "from smallcnn.report.notebook import edited_values; from smallcnn.report.parameters import published_values; "
        "print([edited_values('approach_2'), published_values('approach_2')['epochs']])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[{'epochs': 2, 'train_examples': 2000, 'seeds': [0]}, 40]"


def test_what_is_wrong_is_said_in_one_line(notebook: Notebook) -> None:
    notebook.change(PARAMETERS, ("filters: list[int] = [4, 8, 16, 16, 10]", "filters = [4, 8, 16, 12, 10]"))
    notebook.run(PARAMETERS, TRAINING)
    assert notebook.error(TRAINING) == "filters changed after the cell that types the network ran; run that cell again"
    notebook.change(PARAMETERS, ("epochs: int = 2", "epochs = 0"))
    notebook.run(PARAMETERS, CHAPTER)
    assert "epochs is 0; expected a whole number from 1" in notebook.error(CHAPTER)
    notebook.restore()
    notebook.run(PARAMETERS)
    notebook.change(NETWORK, ('layers.Conv2D(count, 3, activation="relu")', "layers.DepthwiseConv2D(3)"))
    notebook.run(NETWORK, DIAGRAM)
    assert "is a DepthwiseConv2D; supported are Conv2D, " in notebook.error(DIAGRAM)
    notebook.change(NETWORK, ("from tf_keras import layers", "from keras import layers"))
    notebook.run(NETWORK)
    assert "a layer is of Keras 3; this book's Keras is tf_keras" in notebook.error(NETWORK)
    notebook.change(NETWORK, ("Conv2D(count", "Conv2D(0"))
    notebook.run(NETWORK)
    assert re.search(r"filters.*Received filters=0. \(line 6 of the cell\)", notebook.error(NETWORK))
    notebook.type(RUNS, "1 / 0")
    notebook.run(RUNS)
    assert re.search("----> 1.*ZeroDivisionError", notebook.text(RUNS), re.DOTALL)


def test_results_are_short_and_can_be_worked_with(notebook: Notebook) -> None:
    def shown(source: str) -> str:
        notebook.type(RUNS, source)
        notebook.run(RUNS)
        return notebook.text(RUNS)

    notebook.run(NETWORK, TRAINING)
    for source in ("runs[0]", "runs", "runs[0].config", "load_mnist()"):
        assert 20 < len(shown(source)) < 400, source
    assert "test accuracy" in shown('results.runs(runs).sort_values("best_test_accuracy")')
    assert notebook.tab.evaluate("(number) => cell(number).node.querySelectorAll('.results table').length", RUNS) == 1
    with notebook.tab.expect_download() as download:
        notebook.tab.locator(".jp-Notebook .jp-Cell").nth(RUNS).locator("a[download]").click()
    assert download.value.suggested_filename == "runs.csv"
    assert Path(download.value.path()).read_text().startswith("seed,best_test_accuracy,")
    asked = "runs[0].model().predict(test_set.images, verbose=0).argmax(axis=1)"
    assert "True" in shown(f"({asked} == test_set.labels).mean() == runs[0].best_test_accuracy")


def test_an_interrupted_training_says_so_in_one_line_and_goes_on(notebook: Notebook, project: Path) -> None:
    pytest.importorskip("halide")
    before = records(project)
    notebook.change(
        PARAMETERS, ("epochs: int = 2", "epochs = 12"), ("train_examples: int = 2000", "train_examples = 5000")
    )
    notebook.type(TRAINING, 'print("mine stays")\n' + notebook.source(TRAINING))
    notebook.run(PARAMETERS)
    notebook.start("run-cell", TRAINING)
    notebook.wait(f"/epoch [2-9] of at most 12/.test(cell({TRAINING}).node.textContent)")
    notebook.tab.locator(".jp-NotebookPanel-toolbar [data-jp-item-name='interrupt']").click()
    notebook.finish()
    error = notebook.error(TRAINING)
    (epoch,) = re.fullmatch(
        r"interrupted after epoch (\d+) of 4-8-16-16-10.*; the same again goes on from there", error
    ).groups()
    assert notebook.text(TRAINING).replace("\n", "") == f"mine stays{error}"
    notebook.start("run-cell", TRAINING)
    notebook.wait(f"cell({TRAINING}).node.textContent.includes('going on after epoch {epoch}')")
    notebook.finish()
    assert notebook.text(TRAINING) == "mine stays\n"
    (record,) = (record for key, record in records(project).items() if key not in before)
    assert (record["config"]["train_examples"], len(record["epoch_seconds"])) == (5000, record["epochs_run"])
    assert record["epochs_run"] > int(epoch)
