"""The style that all figures share, and the two things most of them draw: a film and boxes on it.

Films are grey with fixed limits; boxes differ by line style and text as well as by colour, so that figures read in
grey print and for colour-blind readers.
"""

import io
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

# Okabe and Ito's palette (2008), told apart by readers with any common colour vision deficiency.
BLUE, ORANGE, GREEN, YELLOW, SKY, RED, PINK, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#F0E442", "#56B4E9", "#D55E00", "#CC79A7", "#000000",
)  # fmt: skip
CYCLE = (BLUE, ORANGE, GREEN, RED, PINK, SKY, BLACK)
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo")
# What a box is -> how it is drawn (colour, line style, line width in points).
BOX_STYLES = {
    "truth": (YELLOW, "-", 1.6),
    "predicted": (SKY, "--", 1.6),
    "reader_1": (YELLOW, "-", 1.2),
    "reader_2": (SKY, "--", 1.2),
    "reader_3": (PINK, ":", 1.6),
    "merged": (ORANGE, "-.", 1.8),
}


def new_figure(n_rows: int = 1, n_columns: int = 1, width: float = 7.0, height: float = 3.0, **kwargs):
    """A figure and its axes with constrained layout; sizes in inches. Returns (Figure, array of Axes (rows, columns)).

    The figure is not registered with pyplot, so a notebook shows it once, as the value of the cell.
    """
    figure = _figure_class()(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False, **kwargs)


@lru_cache(maxsize=1)
def _figure_class():
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        """A Figure that a notebook shows as a picture without pyplot."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=90)
            return buffer.getvalue()

    return NotebookFigure


def show_film(axes, image: np.ndarray, title: str = "") -> None:
    """Draw a radiograph, float (height, width) in [0, 1] or uint8, black = 0, white = 1 (255), without ticks."""
    image = np.asarray(image)
    axes.imshow(image, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1, interpolation="antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    if title:
        axes.set_title(title, fontsize=9)


def draw_boxes(axes, boxes: Sequence, texts: Sequence[str] | None = None, kind: str = "truth") -> None:
    """Outline boxes on a film.

    Args:
        axes: Axes that show the film.
        boxes: (n, 4) x_min, y_min, x_max, y_max in the pixels of the image that is shown; rows with NaN are left out.
        texts: One label per box, drawn at its upper left corner.
        kind: A key of BOX_STYLES: decides colour and line style.
    """
    from matplotlib.patches import Rectangle

    colour, line, width = BOX_STYLES[kind]
    boxes = np.asarray(boxes, dtype=float).reshape(-1, 4)
    for index, (x_min, y_min, x_max, y_max) in enumerate(boxes):
        if np.isnan([x_min, y_min, x_max, y_max]).any():
            continue
        rectangle = Rectangle((x_min, y_min), x_max - x_min, y_max - y_min, fill=False, ec=colour, ls=line, lw=width)
        axes.add_patch(rectangle)
        if texts is not None:
            axes.text(
                x_min, y_min, texts[index], color="white", fontsize=6.5, va="bottom", ha="left", clip_on=True,
                bbox={"facecolor": "black", "alpha": 0.6, "pad": 0.8, "edgecolor": colour, "linestyle": line},
            )  # fmt: skip


def number_places(boxes: Sequence, side: float) -> list[tuple[float, float]]:
    """Where the numbers of boxes (n, 4) stand, (x, y): in the upper left corner, or beside a number that is there.

    Args:
        side: Of a number, in the pixels of the boxes.
    """
    places: list[tuple[float, float]] = []
    for x, y, *_ in boxes:
        while any(abs(x - other_x) < side and abs(y - other_y) < side for other_x, other_y in places):
            x += side
        places.append((x, y))
    return places


def number_boxes(axes, boxes: np.ndarray, side: float) -> None:
    """Outline a detector's boxes (n, 4), each with its number from 1 in its upper left corner, large enough for a page.

    The names stand in the text beside the film: names on the film would lie on one another.

    Args:
        side: Of a number, in the pixels of the boxes.
    """
    colour, line, _ = BOX_STYLES["predicted"]
    draw_boxes(axes, boxes, kind="predicted")
    for number, (x, y) in enumerate(number_places(boxes, side), start=1):
        axes.text(
            x, y, str(number), color="white", fontsize=11, fontweight="bold", va="top", ha="left", clip_on=True,
            bbox={"facecolor": "black", "alpha": 0.8, "pad": 2, "edgecolor": colour, "linestyle": line},
        )  # fmt: skip
