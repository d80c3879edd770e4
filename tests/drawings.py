"""Drawings for the page that reads digits: digits as polylines, drawings that are none, and what the page carries."""

from __future__ import annotations

import math
from typing import Any

from smallcnn import study
from smallcnn.pruning import pruned_fractions
from smallcnn.report.chapter import training_configs
from tests.networks import PUBLISHED

Stroke = list[tuple[float, float]]


def published_results() -> dict[str, Any]:
    """What the chapters' results say of the published runs: the keys of those with the first seed."""
    configs = {
        chapter.name: training_configs(PUBLISHED[chapter.name], chapter.published)[0] for chapter in study.APPROACHES
    }
    pruning = study.PRUNING.published
    fractions = pruned_fractions(pruning["schedule"], pruning["pruning_fraction"], pruning["rounds"])
    rounds = [
        {"round": number, "key": config.key} for number, config in enumerate(configs[study.PRUNED].rounds(fractions))
    ]
    return {name: {"runs": [{"key": config.key}]} for name, config in configs.items()} | {"pruning": {"rounds": rounds}}


def arc(x: float, y: float, across: float, down: float, start: float, end: float) -> Stroke:
    """Points on an ellipse, from one angle in degrees to another; 0 is to the right, 90 below."""
    angles = [math.radians(start + (end - start) * step / 20) for step in range(21)]
    return [(x + across * math.cos(angle), y + down * math.sin(angle)) for angle in angles]


# Each digit in some ways to write it, stroke by stroke, in a box from (0, 0) to (1, 1).
DIGITS: dict[int, list[list[Stroke]]] = {
    0: [
        [arc(0.5, 0.5, 0.33, 0.5, -90, 270)],
        [arc(0.5, 0.5, 0.5, 0.5, -60, 300)],
        [arc(0.5, 0.5, 0.25, 0.5, -100, 265)],
    ],
    1: [
        [[(0.5, 0), (0.5, 1)]],
        [[(0.2, 0.3), (0.5, 0), (0.5, 1)]],
        [[(0.65, 0), (0.35, 1)]],
        [[(0.2, 0.3), (0.5, 0), (0.5, 1)], [(0.15, 1), (0.85, 1)]],
    ],
    2: [
        [[*arc(0.5, 0.3, 0.35, 0.3, -170, 30), (0.1, 1), (0.9, 1)]],
        [[*arc(0.45, 0.28, 0.4, 0.28, -180, 40), (0.05, 0.95), (0.95, 1)]],
        [[*arc(0.5, 0.25, 0.35, 0.25, -180, 60), (0.1, 0.95), *arc(0.2, 0.88, 0.12, 0.1, 120, 330), (0.9, 1)]],
    ],
    3: [
        [[*arc(0.45, 0.26, 0.35, 0.26, -160, 90), *arc(0.45, 0.75, 0.4, 0.25, -90, 160)]],
        [[(0.1, 0), (0.85, 0), (0.4, 0.4), *arc(0.4, 0.7, 0.45, 0.3, -90, 150)]],
        [[*arc(0.4, 0.25, 0.4, 0.25, -140, 80), *arc(0.4, 0.73, 0.5, 0.27, -80, 150)]],
    ],
    4: [
        [[(0.1, 0), (0.1, 0.5), (0.9, 0.5)], [(0.75, 0), (0.75, 1)]],
        [[(0.7, 1), (0.7, 0), (0.05, 0.65), (0.95, 0.65)]],
        [[(0.2, 0.05), (0.05, 0.55), (0.9, 0.5)], [(0.75, 0.1), (0.65, 1)]],
    ],
    5: [
        [[(0.85, 0), (0.2, 0), (0.15, 0.45), *arc(0.45, 0.7, 0.4, 0.3, -130, 150)]],
        [[(0.2, 0), (0.15, 0.42), *arc(0.4, 0.7, 0.42, 0.3, -120, 140)], [(0.2, 0), (0.9, 0)]],
        [[(0.9, 0.02), (0.3, 0), (0.2, 0.4), (0.6, 0.38), (0.85, 0.6), (0.75, 0.9), (0.4, 1), (0.1, 0.9)]],
    ],
    6: [
        [[(0.7, 0), (0.3, 0.35), *arc(0.5, 0.7, 0.3, 0.3, -190, 170)]],
        [[(0.6, 0), (0.25, 0.5), *arc(0.5, 0.72, 0.3, 0.28, -180, 190)]],
        [[(0.45, 0), (0.2, 0.4), *arc(0.5, 0.7, 0.35, 0.3, 180, -170)]],
    ],
    7: [
        [[(0.05, 0), (0.95, 0), (0.4, 1)]],
        [[(0.05, 0.05), (0.9, 0), (0.35, 1)], [(0.3, 0.5), (0.85, 0.5)]],
        [[(0.05, 0.2), (0.05, 0), (0.85, 0), (0.5, 0.5), (0.4, 1)]],
    ],
    8: [
        [[*arc(0.5, 0.25, 0.28, 0.25, 90, -270), *arc(0.5, 0.75, 0.35, 0.25, -90, 270)]],
        [[*arc(0.5, 0.24, 0.3, 0.24, 0, -270), *arc(0.5, 0.74, 0.33, 0.26, -90, 270)]],
        [
            [
                (0.8, 0.15),
                *arc(0.5, 0.22, 0.28, 0.22, -30, -240),
                (0.75, 0.65),
                *arc(0.5, 0.78, 0.27, 0.22, -30, 210),
                (0.8, 0.15),
            ]
        ],
    ],
    9: [
        [[*arc(0.5, 0.28, 0.3, 0.28, 0, -360), (0.8, 0.28), (0.75, 1)]],
        [[*arc(0.48, 0.27, 0.32, 0.27, 0, -350), (0.8, 0.2), (0.8, 0.6), (0.5, 1)]],
        [[*arc(0.5, 0.3, 0.3, 0.28, -20, -360), (0.8, 0.2), (0.6, 1)]],
    ],
}
# Drawings that are no digit, and that the networks don't agree on.
NO_DIGITS: dict[str, list[Stroke]] = {
    "a dot": [[(0.5, 0.5)]],
    "two dots": [[(0.1, 0.1)], [(0.9, 0.9)]],
    "a scribble": [
        [
            (0.5 + 0.5 * math.sin(7.3 * at) * (at % 5 / 5 + 0.2), 0.5 + 0.5 * math.cos(5.1 * at) * (at % 7 / 7 + 0.2))
            for at in range(60)
        ]
    ],
    "a zigzag": [[(at / 10, at % 2) for at in range(11)]],
    "a full square": [[(x, at / 11) for at in range(12) for x in ((0, 1) if at % 2 else (1, 0))]],
    "a dash": [[(0, 0.5), (1, 0.5)]],
    "a spiral": [[(0.5 + at / 80 * math.cos(at / 3), 0.5 + at / 80 * math.sin(at / 3)) for at in range(40)]],
    "lines": [[(0, at / 5), (1, at / 5)] for at in range(6)],
    "bars": [[(at / 2, 0), (at / 2, 1)] for at in range(3)],
    "a grid": [[(0.3, 0), (0.3, 1)], [(0.7, 0), (0.7, 1)], [(0, 0.3), (1, 0.3)], [(0, 0.7), (1, 0.7)]],
    "a K": [[(0, 0), (0, 1)], [(1, 0), (0, 0.5), (1, 1)]],
}
# Where in the field a drawing is: its height, and the place of its upper left corner.
PLACES = {
    "in the middle": (0.6, 0.25, 0.2),
    "in a corner": (0.3, 0.03, 0.04),
    "in the opposite corner": (0.3, 0.72, 0.66),
    "small": (0.15, 0.4, 0.4),
    "large": (0.9, 0.15, 0.05),
    "narrow": (0.6, 0.4, 0.2),
}
PENS = {"thin": 0.03, "as it is": 0.07, "thick": 0.12}


def placed(strokes: list[Stroke], place: str) -> list[Stroke]:
    """A drawing in its place in the field, whose sides are 1 long."""
    size, left, top = PLACES[place]
    width = 0.4 if place == "narrow" else 0.75
    return [[(left + width * size * x, top + size * y) for x, y in stroke] for stroke in strokes]
