"""The networks in the page: the arithmetic against the records, drawings by mouse, finger and keys, what is pointed at.

Every network reads 500 test images in the ordinary tests and the smallest all 10,000; with `EVERY_IMAGE=1` in the
environment every network reads all.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser
from playwright.sync_api import Page as Tab

from smallcnn.architecture import (
    Activation,
    Architecture,
    AveragePooling,
    BatchNormalisation,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling,
    MaxPooling,
    Weights,
)
from smallcnn.config import TrainingRun
from smallcnn.data import load_mnist
from smallcnn.paths import BOOK
from smallcnn.report import hand
from tests.drawings import DIGITS, NO_DIGITS, PENS, PLACES, Stroke, placed, published_results
from tests.engines.plain import scores

pytestmark = pytest.mark.slow

EVERY_IMAGE = bool(os.environ.get("EVERY_IMAGE"))
SMALLEST, LARGEST, PRUNED = "approach 3", "approach 1", "approach 2, pruned, round 2"
LABELS = (LARGEST, "approach 2", "approach 2, pruned, round 1", PRUNED, SMALLEST)
FEWER = 500  # test images, evenly spread
CLOSE = 1e-4
MOST_MILLISECONDS = 5  # of a stroke
AGREED = 0.75  # as in draw.js
SOFTMAX, RELU = Activation("softmax"), Activation("relu")
# Networks with every kind of layer and option, beyond what the book has so far.
OTHERS = {
    "padded": (
        Convolution(3, 5, "same"),
        RELU,
        AveragePooling(3),
        Convolution(4, 4, "same", False),
        Flatten(),
        Dense(10),
    ),
    "flattened": (Convolution(2, 7), MaxPooling(4), Flatten(), BatchNormalisation(), Dense(10, False)),
    "hidden": (MaxPooling(2), Flatten(), Dropout(0.5), Dense(12), Activation("leaky_relu", 0.2), Dense(10)),
    "first": (
        BatchNormalisation(False),
        Convolution(10, 1),
        BatchNormalisation(True, 0.9, 0.01),
        GlobalAveragePooling(),
    ),
    "widest": (Convolution(6, 28), RELU, GlobalAveragePooling(), Dense(10)),
}
RUN = """([label, images]) => {
    const bytes = smallcnn.decodeBytes(images);
    const network = smallcnn.hands[0].networks.find((network) => network.label === label);
    const scores = network.layers[network.layers.length - 2].y.data;
    const image = new Float64Array(784);
    return Array.from({ length: bytes.length / 784 }, (_, number) => {
        image.forEach((_, at) => (image[at] = bytes[number * 784 + at] / 255));
        smallcnn.run(network, image);
        return Array.from(scores);
    });
}"""


def page_of(part: bytes, theme: str = "light") -> str:
    """A page with nothing but a part and what it needs, as the theme of the book frames it."""
    (shown,) = re.findall(r"```\{raw\} html\n(.*)\n```", part.decode(), re.DOTALL)
    style = (BOOK / "_static" / "draw.css").read_text("utf-8")
    scripts = "".join(
        f"<script>{(BOOK / '_static' / name).read_text('utf-8')}</script>" for name in ("network.js", "draw.js")
    )
    colours = {"light": "#14181e; background: #fff", "dark": "#ced6dd; background: #121212"}
    return f"""<!DOCTYPE html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8"><title>A page</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}
body {{ margin: 16px; font-family: sans-serif; color: {colours[theme]}; }} 
a {{ color: inherit; }} .after {{ height: 2000px; }}</style>{scripts}
</head><body><main><h1>A page</h1>{shown}<p class="after">and what follows</p></main></body></html>"""


@pytest.fixture(scope="module")
def parts() -> dict[str, bytes]:
    return hand.generated_parts(published_results())


@pytest.fixture(scope="module")
def trained() -> dict[str, TrainingRun]:
    return hand.first_runs(published_results())


@pytest.fixture(scope="module")
def page(browser: Browser, parts: dict[str, bytes]) -> Iterator[Tab]:
    """The page of the networks, as wide as a screen; what a test draws or chooses there stays."""
    with browser.new_context(viewport={"width": 1440, "height": 900}) as context:
        tab = context.new_page()
        tab.set_content(page_of(parts["hand.md"]))
        yield tab


@pytest.fixture(scope="module")
def found_scores(page: Tab) -> dict[str, np.ndarray]:
    """What each network in the page makes of test images, by its label: (10,000, 10), or of `FEWER` images."""
    images = load_mnist()[1].images
    return {
        label: np.array(page.evaluate(RUN, [label, base64.b64encode(images[every(label)].tobytes()).decode()]))
        for label in LABELS
    }


def every(label: str) -> slice:
    """Which test images a network reads."""
    return slice(None) if EVERY_IMAGE or label == SMALLEST else slice(None, None, 10_000 // FEWER)


@pytest.mark.parametrize("label", LABELS)
def test_the_page_reads_the_test_images_as_was_recorded(
    label: str, found_scores: dict[str, np.ndarray], trained: dict[str, TrainingRun]
) -> None:
    assert np.array_equal(found_scores[label].argmax(axis=1), trained[label].predicted_classes[every(label)])


@pytest.mark.parametrize("label", LABELS)
def test_the_page_computes_what_numpy_computes(
    label: str, found_scores: dict[str, np.ndarray], trained: dict[str, TrainingRun]
) -> None:
    run, images = trained[label], load_mnist()[1].images[every(label)][:300]
    weights = {name: array.astype(float) for name, array in run.weights.items()}
    expected = scores(run.config.architecture.to_json(), weights, images / 255)
    assert np.abs(found_scores[label][:300] - expected).max() < CLOSE


def test_few_test_images_are_taken_for_no_digit(found_scores: dict[str, np.ndarray]) -> None:
    same = {label: found[:: len(found) // FEWER] for label, found in found_scores.items()}
    powers = [np.exp(found - found.max(axis=1, keepdims=True)) for found in same.values()]
    shares = np.mean([power / power.sum(axis=1, keepdims=True) for power in powers], axis=0)
    assert np.mean(shares.max(axis=1) < AGREED) < 0.03


def random_weights(architecture: Architecture) -> Weights:
    generator = np.random.default_rng(5)
    return {
        name: generator.uniform(0.2 if "variance" in name else -1, 1, shape).astype(np.float32)
        for name, shape in architecture.weight_shapes.items()
    }


@pytest.mark.parametrize("name", OTHERS)
def test_any_network_of_the_vocabulary_is_run_and_shown(tab: Tab, name: str) -> None:
    architecture = Architecture((*OTHERS[name], SOFTMAX))
    weights = random_weights(architecture)
    told = {"trainable": 1, "wrong": 2, "images": 3}
    network = hand._network(name, architecture, weights) | told
    images = load_mnist()[1].images[:10]
    sample = {"digit": 7, "hard": False, "pixels": base64.b64encode(images[0].tobytes()).decode()}
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.set_content(page_of(hand._part("whole", [network], [sample] * 10)))
    found = np.array(tab.evaluate(RUN, [name, base64.b64encode(images.tobytes()).decode()]))
    expected = scores(
        architecture.to_json(), {key: array.astype(float) for key, array in weights.items()}, images / 255
    )
    assert np.abs(found - expected).max() < CLOSE
    assert tab.evaluate(SUMS_ARE_WHOLE) < 1e-9
    for grid in tab.locator(".hand-cards").all():
        grid.focus()
        for key in ("ArrowLeft", "ArrowDown", "PageDown"):
            grid.press(key)
    assert problems == []


# The largest difference between a number of a layer and the sum that is shown for it.
SUMS_ARE_WHOLE = """() => Math.max(0, ...smallcnn.hands[0].networks.flatMap(({ layers }) => layers.flatMap((layer) => {
    if (!layer.kernel) return [];
    const { rows, columns, data } = layer.y;
    return Array.from(data, (value, at) => {
        const channel = Math.floor(at / rows / columns);
        const tiles = smallcnn.tilesBehind(layer, channel, Math.floor(at / columns) % rows, at % columns);
        const sum = tiles.reduce((sum, tile) => sum + tile.sum, layer.bias ? layer.bias[channel] : 0);
        return Math.abs(sum - value);
    }).slice(0, 2000);
})))"""


def test_the_sums_that_are_shown_are_those_of_the_networks(page: Tab) -> None:
    page.locator(".hand-samples button").nth(4).click()
    settle(page)
    assert page.evaluate(SUMS_ARE_WHOLE) < 1e-9


def settle(tab: Tab) -> None:
    """Waits until the page has run and shown what was drawn."""
    tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def answer(tab: Tab) -> str:
    settle(tab)
    return tab.locator(".hand-answer").inner_text()


def draw(tab: Tab, strokes: list[Stroke]) -> None:
    """Draws with the mouse, into an empty field."""
    tab.get_by_role("button", name="Clear").click()
    box = tab.locator(".hand-paper").bounding_box()
    assert box is not None
    for stroke in strokes:
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        tab.mouse.move(*points[0])
        tab.mouse.down()
        for point in points[1:]:
            tab.mouse.move(*point)
        tab.mouse.up()


@pytest.mark.parametrize("digit", DIGITS)
def test_a_digit_that_the_mouse_draws_is_read(page: Tab, digit: int) -> None:
    places = list(PLACES)
    for number, way in enumerate(DIGITS[digit][:2]):
        place = places[(digit + 3 * number) % len(places)]
        draw(page, placed(way, place))
        assert answer(page) == str(digit), f"way {number + 1}, {place}"


def read_all(tab: Tab, drawings: list[list[Stroke]], pens: list[float]) -> Any:
    """What all networks together say of each drawing, and what each of them says."""
    return tab.evaluate(
        """([drawings, pens]) => drawings.map((strokes, number) => {
            const image = smallcnn.imageOf(strokes, pens[number]);
            const { networks } = smallcnn.hands[0];
            networks.forEach((network) => smallcnn.run(network, image.pixels));
            const trained = networks.filter(({ wrong }) => wrong !== null);
            const said = trained.map(({ probabilities }) => probabilities.indexOf(Math.max(...probabilities)));
            return [smallcnn.verdict(networks, image).digit, said];
        })""",
        [drawings, pens],
    )


def test_digits_are_read_wherever_they_stand_small_large_thin_and_thick(page: Tab) -> None:
    drawn = [
        (digit, way, place, pen)
        for digit, ways in DIGITS.items()
        for way in range(len(ways))
        for place in PLACES
        for pen in PENS
    ]
    found = read_all(
        page, [placed(DIGITS[digit][way], place) for digit, way, place, _ in drawn], [PENS[pen] for *_, pen in drawn]
    )
    wrong = [(case, said) for case, (digit, said) in zip(drawn, found, strict=True) if digit != case[0]]
    assert {place for (_, _, place, _), _ in wrong} <= {"narrow"}, (
        wrong
    )  # a nought as narrow as a stroke looks like a 1
    assert len(wrong) <= 5, f"{len(wrong)} of {len(drawn)}: {wrong}"


def test_what_is_no_digit_is_called_that(page: Tab) -> None:
    drawings = [(name, pen) for name in NO_DIGITS for pen in PENS]
    strokes = [placed(NO_DIGITS[name], "in the middle") for name, _ in drawings]
    found = read_all(page, strokes, [PENS[pen] for _, pen in drawings])
    taken = {drawing: digit for drawing, (digit, _) in zip(drawings, found, strict=True) if digit is not None}
    assert len(taken) <= len(drawings) / 10, taken  # what other networks agree on by chance is another one


def test_a_letter_can_pass_for_a_digit_as_the_page_says(page: Tab) -> None:
    assert "try an\nH, which they take for a 4" in (BOOK / "draw.md").read_text("utf-8")
    letter: list[Stroke] = [[(0, 0), (0, 1)], [(1, 0), (1, 1)], [(0, 0.5), (1, 0.5)]]
    assert read_all(page, [placed(letter, "in the middle")], [PENS["as it is"]]) == [[4, [4] * len(LABELS)]]


def test_an_empty_field_has_no_answer(page: Tab) -> None:
    draw(page, placed(DIGITS[3][0], "in the middle"))
    assert answer(page) == "3"
    page.get_by_role("button", name="Undo").click()
    assert answer(page) == "–"
    assert "Nothing is drawn" in page.locator(".hand-words").inner_text()
    assert set(page.locator(".hand-choice b").all_inner_texts()) == {"–"}
    draw(page, [[(0.5, 0.5)]])
    assert answer(page) == "?"
    assert "Not a digit" in page.locator(".hand-words").inner_text()


def test_a_finger_draws_in_the_field_and_scrolls_the_page_beside_it(browser: Browser, parts: dict[str, bytes]) -> None:
    with browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as context:
        tab = context.new_page()
        tab.set_content(page_of(parts["hand.md"]))
        fingers = context.new_cdp_session(tab)

        def stroke(points: list[tuple[float, float]]) -> None:
            for at, (x, y) in enumerate(points):
                kind = "touchMove" if at else "touchStart"
                fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
            fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

        field = tab.locator(".hand-paper").bounding_box()
        assert field is not None
        middle, top, height = field["x"] + field["width"] / 2, field["y"], field["height"]
        stroke([(middle, top + height * (0.85 - 0.07 * at)) for at in range(11)])
        assert answer(tab) == "1"
        assert tab.evaluate("scrollY") == 0
        tab.evaluate("scrollTo(0, 0)")
        below = tab.locator(".hand-stage").first.bounding_box()
        assert below is not None
        stroke([(middle, 800 - 60 * at) for at in range(8)])
        tab.wait_for_function("scrollY > 100")


def tab_to(tab: Tab, selector: str) -> None:
    """Presses the Tab key until the focus is on such an element."""
    for _ in range(60):
        if tab.evaluate("(selector) => document.activeElement?.matches(selector)", selector):
            return
        tab.keyboard.press("Tab")
    raise AssertionError(f"the Tab key does not reach {selector}")


def test_the_keyboard_alone_is_enough(tab: Tab, parts: dict[str, bytes]) -> None:
    tab.set_content(page_of(parts["hand.md"]))
    tab_to(tab, "[aria-label='Sample 4']")
    tab.keyboard.press("Enter")
    assert answer(tab) == "4"
    tab_to(tab, ".hand-choice input")
    tab.keyboard.press("ArrowDown")
    settle(tab)
    assert tab.locator(".hand-network").get_attribute("aria-label") == SMALLEST
    tab_to(tab, ".hand-stage:nth-child(5) .hand-cards")  # the third convolution
    title = tab.locator(".hand-inspector h4")
    assert title.inner_text().startswith("Block 3, map ")
    row, column = map(int, re.findall(r"row (\d+), column (\d+)", title.inner_text())[0])
    tab.keyboard.press("ArrowRight" if column < 10 else "ArrowLeft")
    assert f"column {column + 1 if column < 10 else column - 1}" in title.inner_text()
    spoken = tab.locator(".hand-spoken").inner_text()
    assert spoken.startswith(title.inner_text())
    for _ in range(10 - row + 1):
        tab.keyboard.press("ArrowDown")
    assert title.inner_text().startswith("Block 3, weights from map 1 to map ")
    assert tab.locator(".hand-lit").count() == 2  # the map that is made, and the one that is read
    tab.keyboard.press("ArrowUp")
    assert "row 10" in title.inner_text()
    tab.keyboard.press("PageDown")
    assert "row 10" in title.inner_text()


def choose(tab: Tab, label: str, beside: str = "nothing") -> None:
    tab.get_by_label("Beside it").select_option(label="nothing")
    tab.locator(".hand-choice", has_text=re.compile(rf"^{re.escape(label)}[\d–]")).locator("input").check(force=True)
    tab.get_by_label("Beside it").select_option(label=beside)
    settle(tab)


def test_what_a_pixel_looks_at_grows_from_layer_to_layer(page: Tab) -> None:
    choose(page, "approach 2")
    page.locator(".hand-samples button").nth(3).click()
    settle(page)
    sizes = []
    seen = page.locator(".hand-seen").bounding_box()
    assert seen is not None
    for stage in page.locator(".hand-stage:has(.hand-map)").all():
        stage.locator(".hand-map").first.hover()
        mark = page.locator(".hand-seen + .hand-mark").bounding_box()
        assert mark is not None
        sizes.append(round(28 * mark["width"] / seen["width"]))
    assert sizes == [3, 5, 6, 10, 14, 18]


def test_pointing_spells_out_a_number(page: Tab) -> None:
    choose(page, PRUNED)
    page.locator(".hand-samples button").nth(3).click()
    page.locator(".hand-stage").nth(1).locator(".hand-map").nth(2).hover()
    told = page.locator(".hand-steps span").all_inner_texts()
    assert [told[0], told[1], *told[3::3]] == ["36 products", "from 4 maps", "bias", "ReLU", "normalised"]
    products, bias, after, rectified = (number(text) for text in (told[2], told[4], told[5], told[8]))
    assert abs(products + bias - after) < 0.011
    assert rectified == max(after, 0)
    shown = page.locator(".hand-numbers").all()
    values, weights = ([number(text) for text in grid.locator("i").all_inner_texts()] for grid in shown)
    sum_of_map = number(page.locator(".hand-big > span").last.inner_text().removeprefix("= "))
    assert abs(sum(map(float.__mul__, values, weights)) - sum_of_map) < 0.3
    sums = [number(text) for text in page.locator(".hand-pairs span").all_inner_texts()]
    assert len(sums) == 4
    assert abs(sum(sums) - products) < 0.03
    last = page.locator(".hand-stage").last.locator(".hand-card").nth(3)
    last.hover()
    told = page.locator(".hand-steps span").all_inner_texts()
    assert told[:2] == ["the mean of", "36 numbers"]
    assert told[3] == "softmax"


def number(text: str) -> float:
    """The number that a text shows; a dot is a pruned weight."""
    return 0.0 if text == "•" else float(text.replace("−", "-").replace(" ", "").replace("+", "").replace(",", ""))


def test_the_page_begins_with_a_digit_and_where_it_matters_to_a_map(tab: Tab, parts: dict[str, bytes]) -> None:
    tab.set_content(page_of(parts["hand.md"]))
    assert answer(tab) == "7"
    title = tab.locator(".hand-inspector h4").inner_text()
    assert title.startswith("Block 2, map ")
    assert "row 1, column 1" not in title  # a corner, where nothing is drawn
    assert number(tab.locator(".hand-steps span").all_inner_texts()[8]) > 0


def test_pruned_weights_are_marked(page: Tab, trained: dict[str, TrainingRun]) -> None:
    choose(page, PRUNED)
    pruned = 0
    stage = page.locator(".hand-stage").nth(1)
    for card in range(8):
        stage.locator(".hand-weights").nth(card).hover(position={"x": 2, "y": 2})
        told = page.locator(".hand-steps").inner_text()
        pruned += int(told.split(" of ")[0]) if "pruned" in told else 0
    kernel = trained[PRUNED].weights["block_2/kernel"]
    assert pruned == np.sum(kernel[:, :, 0] == 0)
    dots = page.evaluate(PIXELS_OF_DOTS, "2")
    assert dots in [np.sum(kernel == 0) * side**2 for side in (1, 2, 3)]
    choose(page, "approach 2")
    assert page.evaluate(PIXELS_OF_DOTS, "2") == 0
    choose(page, PRUNED)


# How many pixels of the weights of a stage, counted from 1, have the colour of a pruned one.
PIXELS_OF_DOTS = """(stage) => {
    const grey = getComputedStyle(document.querySelector(".hand")).getPropertyValue("--hand-pruned");
    const colour = parseInt(grey.slice(1), 16);
    let count = 0;
    for (const canvas of document.querySelectorAll(`.hand-stage:nth-of-type(${stage}) .hand-weights`)) {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        for (let at = 0; at < data.length; at += 4) {
            count += data[at + 3] === 255 && (data[at] << 16 | data[at + 1] << 8 | data[at + 2]) === colour;
        }
    }
    return count;
}"""


def test_two_networks_stand_side_by_side_and_show_the_same_place(page: Tab) -> None:
    choose(page, "approach 2", beside=PRUNED)
    columns = page.locator(".hand-network")
    assert columns.count() == 2
    columns.first.locator(".hand-stage").nth(3).locator(".hand-map").nth(5).hover()
    for column in (columns.first, columns.last):
        assert column.locator(".hand-stage").nth(3).locator(".hand-lit").count() == 1
    choose(page, "approach 2", beside=LARGEST)  # which has other layers
    columns.first.locator(".hand-stage").nth(3).locator(".hand-map").nth(5).hover()
    assert columns.last.locator(".hand-lit").count() == 0
    choose(page, PRUNED)


def test_a_stroke_takes_few_milliseconds(page: Tab) -> None:
    choose(page, LARGEST)
    draw(page, placed(DIGITS[8][0], "large"))
    took = page.evaluate(
        """() => {
            const [hand] = smallcnn.hands;
            const network = hand.networks[0];
            return Array.from({ length: 60 }, () => {
                const begun = performance.now();
                const image = smallcnn.imageOf(hand.field.strokes, 0.07);
                smallcnn.run(network, image.pixels);
                hand.views.forEach((view) => view.paint("activation"));
                return performance.now() - begun;
            });
        }"""
    )
    choose(page, PRUNED)
    assert min(took) < MOST_MILLISECONDS  # the machine may do other things; that only makes it slower


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["hand.md", "field.md"])
def test_nothing_is_seriously_inaccessible(tab: Tab, parts: dict[str, bytes], name: str, theme: str) -> None:
    tab.set_content(page_of(parts[name], theme))
    assert answer(tab) == "7"
    violations = Axe().run(tab).response["violations"]
    serious = [violation for violation in violations if violation["impact"] in ("serious", "critical")]
    assert not serious, [(each["id"], [node["html"][:200] for node in each["nodes"][:3]]) for each in serious]


def test_the_page_turns_dark_with_its_theme(tab: Tab, parts: dict[str, bytes]) -> None:
    def corner() -> int:
        """How light the corner of the first map is, which nothing is drawn in."""
        settle(tab)
        pixel = tab.evaluate(
            "() => [...document.querySelector('.hand-map').getContext('2d').getImageData(0, 0, 1, 1).data]"
        )
        return int(sum(pixel[:3]))

    tab.set_content(page_of(parts["hand.md"]))
    light = corner()
    tab.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert corner() < 200 < 500 < light


@pytest.mark.parametrize("width", [390, 820, 1440])
@pytest.mark.parametrize("name", ["hand.md", "field.md"])
def test_nothing_overflows(tab: Tab, parts: dict[str, bytes], name: str, width: int) -> None:
    tab.set_viewport_size({"width": width, "height": 844})
    tab.set_content(page_of(parts[name]))
    if name == "hand.md":
        for label in (LARGEST, "approach 2"):
            choose(tab, label, beside=PRUNED)
            tab.locator(".hand-stage").nth(2).locator(".hand-map").nth(1).click()
            assert tab.evaluate("document.documentElement.scrollWidth") <= width, label
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_no_motion_is_asked_for() -> None:
    style = Path(BOOK / "_static" / "draw.css").read_text("utf-8")
    assert "transition" not in style
    assert "animation" not in style
