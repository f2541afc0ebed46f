"""Figures of notebook 06: the systems' reports side by side, and what the evidence says of their sentences."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cliniqure_utils.figures.style import GREEN, HATCHES, ORANGE, RED, SKY, new_figure, number_boxes, show_film
from cliniqure_utils.reports import MARKS

WIDTH, LINE, CHARACTERS = 11.0, 0.175, 52  # inches of the figure, inches and characters of a line of text
# Status of a sentence -> its colour.
COLOURS = {"supported": GREEN, "contradicted": RED, "unsupported": ORANGE, "general": SKY, "neutral": "#999999"}


def plot_side_by_side(film: np.ndarray, boxes: np.ndarray, names: Sequence[str], texts: Mapping[str, str | list[dict]]):
    """The paper's figure 4 with the film: what each system wrote, marked by what the evidence says.

    Args:
        film: uint8 (height, width). boxes: (n, 4) in pixels of the film; names: of their findings.
        texts: heading -> a text as it is (reference, crude report), or checked sentences (`reports.check_sentences`),
            each with its mark. They fill two columns beside the film, in this order.

    Returns:
        Figure.
    """
    blocks = [
        [(heading, True), *((line, False) for line in _lines(text)), ("", False)] for heading, text in texts.items()
    ]
    ends = np.cumsum([len(block) for block in blocks])
    first = 1 + int(np.abs(ends - ends[-1] / 2).argmin())  # blocks in the first column, so that both are about as long
    columns = [[line for block in part for line in block] for part in (blocks[:first], blocks[first:])]
    legend = textwrap.wrap(", ".join(f"{n} {name}" for n, name in enumerate(names, start=1)) or "no box", CHARACTERS)
    height = max(3.7 + LINE * len(legend), LINE * max(map(len, columns)) + 0.1)
    figure, axes = new_figure(1, 3, WIDTH, height, width_ratios=(1, 1, 1))
    show_film(axes[0, 0], film, "film, detected boxes")
    number_boxes(axes[0, 0], boxes, side=0.06 * max(film.shape))
    axes[0, 0].set_xlabel("\n".join(legend), fontsize=9)
    axes[0, 0].set_anchor("N")
    for axis, lines in zip(axes[0, 1:], columns, strict=True):
        axis.axis("off")
        axis.set_ylim(height, 0)
        for n, (line, is_heading) in enumerate(lines):
            weight = "bold" if is_heading else "normal"
            axis.text(0, n * LINE, line, fontsize=9, fontweight=weight, va="top", transform=axis.get_yaxis_transform())
    return figure


def _lines(text: str | list[dict]) -> list[str]:
    if isinstance(text, str):
        return textwrap.wrap(text, CHARACTERS) or ["(empty)"]
    marked = [f"{MARKS[entry['status']]} {entry['sentence']}" for entry in text] or ["(empty)"]
    return [line for sentence in marked for line in textwrap.wrap(sentence, CHARACTERS, subsequent_indent="   ")]


def plot_statuses(shares: pd.DataFrame):
    """Share of sentences per status (columns) and system (index), stacked. Figure."""
    figure, axes = new_figure(1, 1, width=6.4, height=0.9 + 0.45 * len(shares))
    axis, left = axes[0, 0], np.zeros(len(shares))
    for i, status in enumerate(shares.columns):
        axis.barh(
            shares.index, shares[status], left=left, label=status, color=COLOURS[status], hatch=HATCHES[i], ec="white"
        )
        left = left + shares[status].to_numpy()
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xlabel("share of sentences")
    axis.legend(fontsize=7, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure
