"""Draws the diagrams of the documentation, docs/images/*.svg.

    python docs/tools/drawings.py

Each has a light background of its own, so that it can be read in light and in dark mode, on the site and in a
repository's viewer.
"""

import tomllib
from collections.abc import Callable
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
INK, GREY, LINE, PAPER = "#24292f", "#57606a", "#8c959f", "#f6f8fa"
BLUE, GREEN, ORANGE, PURPLE = "#cfe2ff", "#d3f0d9", "#ffe2c2", "#e6dbfa"
LANES = (BLUE, GREEN, ORANGE, PURPLE)
CONTENTS = {  # of each layer of the package, by its first name
    "cli": "commands and their output",
    "launch": "Ray: sessions, training, sweeps, jobs",
    "inference": "encoding and generating in parts",
    "api": "trained runs, sweeps, measurements",
    "export": "SavedModel, Keras file, card",
    "training": "the loop and the compiled step",
    "evaluation": "bounds, active units, pictures",
    "objectives": "ELBO, L_K, free bits",
    "runs": "a run's folder; devices, compilation",
    "models": "networks; input; curves",
    "config": "experiments and their keys",
    "storage": "local and remote folders",
    "user_code": "exceptions in users' code",
    "errors": "errors; atomic writing",
}


class Drawing:
    """An SVG picture of labelled boxes and arrows.

    Args:
        width, height: size in pixels.
        title: description, for readers that do not show pictures.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self._size, self._title, self._parts = (width, height), title, list[str]()

    def box(self, x: float, y: float, width: float, height: float, text: str = "", fill: str = "#ffffff") -> None:
        """Draws a box with one or more lines of text in its centre."""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{fill}" stroke="{LINE}"/>'
        )
        lines = text.split("\n")
        top = y + height / 2 - 8.5 * (len(lines) - 1) + 4.5
        for number, line in enumerate(lines):
            self.text(x + width / 2, top + 17 * number, line, anchor="middle")

    def text(self, x: float, y: float, text: str, *, anchor: str = "start", grey: bool = False) -> None:
        """Writes one line of text."""
        colour, size = (GREY, 12) if grey else (INK, 13)
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def arrow(self, *points: tuple[float, float], dashed: bool = False) -> None:
        """Draws an arrow along points."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{GREY}" stroke-width="1.3"{dash} marker-end="url(#tip)"/>'
        )

    def svg(self) -> str:
        """Returns the picture as SVG."""
        width, height = self._size
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                f'viewBox="0 0 {width} {height}" role="img" font-family="Helvetica, Arial, sans-serif">',
                f"<title>{escape(self._title)}</title>",
                '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
                f'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{GREY}"/></marker></defs>',
                f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>',
                *self._parts,
                "</svg>\n",
            ]
        )


def overview() -> Drawing:
    """Data and a job become a run, and a run becomes results."""
    d = Drawing(820, 190, "A job file and a data set determine a run")
    d.box(20, 30, 150, 50, "images", BLUE)
    d.box(20, 110, 150, 50, "job.toml, --set", ORANGE)
    d.box(230, 30, 150, 50, "data set\nArrow shards", BLUE)
    d.arrow((170, 55), (230, 55))
    d.text(200, 24, "data prepare", anchor="middle", grey=True)
    d.box(440, 55, 160, 80, "run\ncheckpoints, curves,\nmetrics, pictures", GREEN)
    d.arrow((380, 55), (410, 55), (410, 80), (440, 80))
    d.arrow((170, 135), (410, 135), (410, 110), (440, 110))
    d.text(300, 127, "train, tune, submit", anchor="middle", grey=True)
    d.box(670, 18, 130, 44, "evaluate\nlog p(x), bits/dim", PURPLE)
    d.box(670, 73, 130, 44, "sample\nreconstruct", PURPLE)
    d.box(670, 128, 130, 44, "tensorboard\ncurves, pictures", PURPLE)
    for y in (40, 150):
        d.arrow((600, 95), (635, 95), (635, y), (670, y))
    d.arrow((600, 95), (670, 95))
    return d


def lanes() -> Drawing:
    """Rows of four shards in turn form batches, and each of two workers owns two lanes."""
    d = Drawing(820, 330, "Shards are lanes; batches take rows from all lanes in turn")
    d.text(20, 28, "Lanes: 4 shards, each shuffled in every epoch", grey=True)
    for lane, colour in enumerate(LANES):
        y = 42 + 34 * lane
        d.text(20, y + 18, f"lane {lane}")
        for row in range(8):
            d.box(80 + 40 * row, y, 36, 26, f"{row * 4 + lane}", colour)
    d.text(420, 28, "Workers", grey=True)
    d.box(420, 42, 130, 60, "worker 0\nreads lanes 0, 1")
    d.box(420, 110, 130, 60, "worker 1\nreads lanes 2, 3")
    d.arrow((400, 72), (420, 72))
    d.arrow((400, 140), (420, 140))
    d.text(590, 70, "With 4 workers, each reads")
    d.text(590, 88, "one lane; with 1, it reads all.")
    d.text(590, 112, "The batches stay the same.")
    d.text(20, 205, "Global batches of 8 positions; a number is a position in the epoch", grey=True)
    for step in range(3):
        x = 20 + 270 * step
        d.text(x, 235, f"step {step}")
        for column in range(8):
            lane, row = column // 2, 2 * step + column % 2
            d.box(x + 31 * column, 245, 29, 28, f"{row * 4 + lane}", LANES[lane])
        d.text(x + 62, 296, "worker 0", anchor="middle", grey=True)
        d.text(x + 186, 296, "worker 1", anchor="middle", grey=True)
    return d


def noise() -> Drawing:
    """The noise of a row is a function of seed, stream, step and row."""
    d = Drawing(820, 250, "Each row of a batch has noise of its own, on any worker")
    d.text(20, 28, "rows of a global batch", grey=True)
    d.text(160, 28, "noise, a function of these four numbers", grey=True)
    d.text(530, 28, "1 worker", grey=True)
    d.text(680, 28, "2 workers", grey=True)
    for row in range(4):
        y = 40 + 46 * row
        d.box(20, y, 120, 36, f"row {row}", BLUE)
        d.box(160, y, 240, 36, f"Philox(seed, stream, step, row = {row})", ORANGE)
        d.arrow((410, y + 18), (520, y + 18))
    d.box(530, 40, 120, 174, "worker 0")
    d.box(680, 40, 120, 82, "worker 0")
    d.box(680, 132, 120, 82, "worker 1")
    d.text(20, 238, "A worker draws the noise of its own rows: what a single worker draws for them.", grey=True)
    return d


def checkpoints() -> Drawing:
    """A run that loses a worker resumes from the newest committed checkpoint."""
    d = Drawing(820, 230, "Checkpoints while training continues, and a restart")
    d.text(20, 28, "training", grey=True)
    d.box(20, 40, 330, 40, "steps 1 to 2,600", GREEN)
    d.box(350, 40, 90, 40, "worker dies", "#ffd0cc")
    d.box(440, 40, 130, 40, "workers start", "#ffffff")
    d.box(570, 40, 230, 40, "steps 2,001, 2,002, ...", GREEN)
    d.text(20, 152, "checkpoints,", grey=True)
    d.text(20, 168, "in the background", grey=True)
    for x, step in ((147, 1000), (274, 2000)):
        d.box(x, 128, 100, 56, f"step {step:,}\nCOMMITTED", BLUE)
        d.arrow((x + 10, 80), (x + 10, 128), dashed=True)
    d.arrow((374, 156), (510, 156), (570, 80))
    d.text(400, 176, "newest intact checkpoint: weights, optimizer state, (epoch, step)", grey=True)
    d.text(20, 212, "Batches and noise of steps 2,001 to 2,600 are the same the second time.", grey=True)
    return d


def layers() -> Drawing:
    """Packages in the order of their imports, which `make lint` checks."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rows = [
        [name.strip().removeprefix("vaedist.") for name in row.split("|")]
        for contract in contracts
        if contract["type"] == "layers"
        for row in contract["layers"]
    ]
    d = Drawing(820, 42 * len(rows) + 50, "Layers of the package; each imports from those below only")
    d.text(20, 26, "Packages and modules of vaedist: each imports from the layers below its own", grey=True)
    for number, names in enumerate(rows):
        y = 38 + 42 * number
        d.text(20, y + 22, CONTENTS[names[0]], grey=True)
        width = (570 - 10 * (len(names) - 1)) / len(names)
        for column, name in enumerate(names):
            d.box(230 + (width + 10) * column, y, width, 34, name, LANES[min(number // 4, 3)])
    return d


DRAWINGS: dict[str, Callable[[], Drawing]] = {
    "overview.svg": overview,
    "lanes.svg": lanes,
    "noise.svg": noise,
    "checkpoints.svg": checkpoints,
    "layers.svg": layers,
}


def drawings() -> dict[Path, str]:
    """Returns the text of each drawing."""
    return {IMAGES / name: draw().svg() for name, draw in DRAWINGS.items()}


if __name__ == "__main__":
    for path, text in drawings().items():
        path.write_text(text)
        print(f"wrote {path}")
