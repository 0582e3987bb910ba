"""Digits drawn by strokes: three ways to write each, deformed at random, at any size and place of a canvas."""

import json
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Strokes = list[np.ndarray]  # each (n, 2), x and y
LAB = Path(__file__).parent.parent / "src" / "patchwork" / "lab"


def arc(x: float, y: float, width: float, height: float, start: float, end: float) -> np.ndarray:
    """Return points of an ellipse around (x, y), from one angle to another in degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, end, 24))
    return np.stack([x + width * np.cos(angles), y + height * np.sin(angles)], axis=1)


def line(*points: tuple[float, float]) -> np.ndarray:
    """Return points along a polyline, evenly spaced."""
    corners = np.array(points, dtype=float)
    pieces = [a + np.linspace(0, 1, 12)[:, None] * (b - a) for a, b in pairwise(corners)]
    return np.concatenate(pieces)


def join(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts)


TEMPLATES: dict[int, list[Strokes]] = {  # in a box of 1 × 1.4 or so
    0: [
        [arc(0.5, 0.7, 0.45, 0.7, -90, 270)],
        [arc(0.5, 0.7, 0.35, 0.7, -60, 310)],
        [arc(0.5, 0.7, 0.5, 0.65, -90, 270), line((0.25, 1.1), (0.75, 0.3))],
    ],
    1: [
        [line((0.5, 0), (0.5, 1.4))],
        [line((0.25, 0.3), (0.5, 0), (0.5, 1.4))],
        [line((0.25, 0.3), (0.5, 0), (0.5, 1.4)), line((0.2, 1.4), (0.8, 1.4))],
    ],
    2: [
        [join(arc(0.5, 0.4, 0.42, 0.4, 190, 380), line((0.88, 0.55), (0.1, 1.4), (0.95, 1.4)))],
        [line((0.1, 0.05), (0.85, 0.05), (0.1, 1.35), (0.9, 1.35))],
        [join(arc(0.5, 0.4, 0.4, 0.4, 200, 400), line((0.8, 0.7), (0.2, 1.3)), arc(0.3, 1.25, 0.15, 0.12, 140, 400),
              line((0.45, 1.3), (0.95, 1.4)))],
    ],
    3: [
        [join(arc(0.45, 0.35, 0.4, 0.35, 200, 450), arc(0.45, 1.03, 0.45, 0.36, -90, 160))],
        [join(line((0.1, 0.02), (0.85, 0.02), (0.4, 0.55)), arc(0.42, 0.98, 0.43, 0.42, -90, 160))],
        [join(arc(0.45, 0.32, 0.35, 0.32, 180, 440), line((0.45, 0.65), (0.35, 0.68)),
              arc(0.42, 1.03, 0.42, 0.37, -80, 170))],
    ],
    4: [
        [line((0.3, 0), (0.1, 0.8), (0.95, 0.8)), line((0.7, 0.3), (0.65, 1.4))],
        [line((0.75, 1.4), (0.75, 0), (0.05, 0.95), (0.98, 0.95))],
        [join(arc(0.55, 0.2, 0.45, 0.6, 170, 90), line((0.5, 0.8), (0.95, 0.75))), line((0.85, 0.05), (0.75, 1.4))],
    ],
    5: [
        [join(line((0.2, 0.05), (0.15, 0.6)), arc(0.42, 0.98, 0.45, 0.42, -110, 150)), line((0.2, 0.05), (0.85, 0.03))],
        [join(line((0.85, 0.05), (0.2, 0.05), (0.17, 0.6)), arc(0.42, 0.98, 0.43, 0.42, -100, 160))],
        [join(line((0.8, 0.0), (0.3, 0.05), (0.25, 0.55)), arc(0.4, 0.95, 0.5, 0.42, -80, 140))],
    ],
    6: [
        [join(arc(0.75, 0.75, 0.65, 0.75, 260, 150), arc(0.5, 1.03, 0.37, 0.37, 170, 540))],
        [join(line((0.6, 0.0), (0.18, 0.85)), arc(0.5, 1.02, 0.36, 0.38, 200, 560))],
        [join(arc(0.9, 0.9, 0.8, 0.9, 250, 170), arc(0.48, 1.05, 0.38, 0.33, 180, 500))],
    ],
    7: [
        [line((0.05, 0.05), (0.9, 0.05), (0.4, 1.4))],
        [line((0.05, 0.05), (0.9, 0.05), (0.4, 1.4)), line((0.3, 0.7), (0.85, 0.7))],
        [join(line((0.1, 0.2), (0.12, 0.05), (0.9, 0.08)), arc(1.3, 1.4, 0.8, 1.3, 240, 180))],
    ],
    8: [
        [join(arc(0.5, 0.35, 0.35, 0.35, -60, -270), arc(0.5, 1.05, 0.42, 0.35, -90, 270),
              arc(0.5, 0.35, 0.35, 0.35, 90, -60))],
        [arc(0.5, 0.34, 0.33, 0.34, -90, 270), arc(0.5, 1.04, 0.4, 0.36, -90, 270)],
        [join(arc(0.5, 0.35, 0.3, 0.35, 270, 90), arc(0.5, 1.05, 0.38, 0.35, -90, 270),
              arc(0.5, 0.35, 0.3, 0.35, 90, -90))],
    ],
    9: [
        [join(arc(0.5, 0.38, 0.37, 0.38, 0, -360), line((0.87, 0.38), (0.8, 1.4)))],
        [join(arc(0.5, 0.38, 0.37, 0.38, -20, -380), arc(0.3, 0.6, 0.57, 0.8, 0, 80))],
        [join(arc(0.48, 0.4, 0.36, 0.36, -30, -340), line((0.83, 0.3), (0.78, 0.8), (0.5, 1.4)))],
    ],
}  # fmt: skip


def draw(
    digit: int, way: int, rng: np.random.Generator, *, size: float = 200.0, place: tuple[float, float] = (20, 20)
) -> Strokes:
    """Return strokes of a digit as a hand might draw them: turned, sheared, bent, with a trembling and uneven speed."""
    angle, shear, aspect = np.radians(rng.uniform(-8, 8)), rng.uniform(-0.2, 0.2), rng.uniform(0.8, 1.2)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ [[aspect, shear], [0, 1]]
    waves, phases = rng.uniform(1, 3, (2, 2)), rng.uniform(0, 2 * np.pi, 2)
    strokes = []
    for template in TEMPLATES[digit][way]:
        at = np.sort(rng.uniform(0, len(template) - 1, max(len(template) // 2, 6)))
        at[[0, -1]] = 0, len(template) - 1
        points = np.stack([np.interp(at, np.arange(len(template)), template[:, axis]) for axis in (0, 1)], axis=1)
        points = points + 0.03 * np.sin(points @ waves + phases) + rng.normal(0, 0.004, points.shape)
        strokes.append(points @ matrix.T)
    low = np.concatenate(strokes).min(axis=0)
    scale = size / np.ptp(np.concatenate(strokes), axis=0).max()
    return [(points - low) * scale + place for points in strokes]


def drawings(count: int, seed: int = 0) -> list[tuple[int, Strokes]]:
    """Return digits and their strokes, in all ways, at all sizes and places of a canvas of 280 × 280."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        digit, size = number % 10, float(rng.uniform(80, 220))
        place = (float(rng.uniform(0, 280 - size)), float(rng.uniform(0, 280 - size)))
        made.append((digit, draw(digit, number // 10 % 3, rng, size=size, place=place)))
    return made


def run_node(script: str, data: Any) -> Any:
    """Run a script of an ES module in Node with `data` as its input, and return what it prints; both are JSON."""
    driver = pytest.importorskip("playwright._impl._driver", reason="Node comes with playwright")
    prelude = f"""
        const lab = {json.dumps(LAB.as_uri())};
        let input = ""; for await (const chunk of process.stdin) input += chunk;
        const data = JSON.parse(input);
    """
    result = subprocess.run(
        [driver.compute_driver_executable()[0], "--input-type=module", "-e", prelude + script],
        input=json.dumps(data),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
