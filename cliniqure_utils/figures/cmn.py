"""Figures of notebook 04: where a word looked, which memory slots it asked, and how good crude reports are."""

from collections.abc import Sequence

import numpy as np

from cliniqure_utils.figures import BLUE, ORANGE, new_figure, show_film


def plot_words_on_film(film: np.ndarray, words: Sequence[str], weights: np.ndarray):
    """What the decoder looked at while it chose each of some words.

    Args:
        film: uint8 (height, width), square.
        words: Labels.
        weights: (len(words), 49) attention over the 7 x 7 patches, each row sums to 1.

    Returns:
        Figure: the film, then one panel per word, the weights as an overlay with contours.
    """
    figure, axes = new_figure(1, 1 + len(words), width=2.0 * (1 + len(words)), height=2.5)
    show_film(axes[0, 0], film, "film")
    side = film.shape[0]
    grid = (np.arange(7) + 0.5) / 7 * side
    for axis, word, row in zip(axes[0, 1:], words, weights, strict=True):
        heat = row.reshape(7, 7) / row.max()
        show_film(axis, film, f"“{word}”")
        axis.imshow(heat, cmap="cividis", alpha=0.45, extent=(0, side, side, 0), interpolation="bilinear")
        axis.contour(grid, grid, heat, levels=[0.5, 0.8], colors="white", linewidths=0.9)
    return figure


def plot_memory(slots: np.ndarray, words: Sequence[str], n_slots: int):
    """How often each memory slot was asked by each of some words.

    Args:
        slots: int (len(words), heads, topk): slots asked.
        words: Labels.
        n_slots: Size of the memory.

    Returns:
        Figure: words by slots, darker = asked by more heads.
    """
    counts = np.zeros((len(words), n_slots))
    for row, asked in enumerate(slots):
        np.add.at(counts[row], asked.ravel(), 1)
    figure, axes = new_figure(1, 1, width=7.4, height=0.9 + 0.28 * len(words))
    axis = axes[0, 0]
    drawn = axis.imshow(counts, aspect="auto", cmap="Greys", vmin=0)
    axis.set_yticks(range(len(words)), words, fontsize=8)
    axis.set_xlabel("memory slot")
    figure.colorbar(drawn, ax=axis, label="heads that ask it")
    return figure


def plot_against_controls(score: float, shuffled: np.ndarray, common: float):
    """Finding-level F1 of the crude reports beside the shuffled-film control (histogram) and the commonest report."""
    figure, axes = new_figure(1, 1, width=6.0, height=2.8)
    axis = axes[0, 0]
    axis.hist(shuffled, bins=20, color=ORANGE, hatch="//", edgecolor="white", label="reports of other films (shuffled)")
    axis.axvline(score, color=BLUE, lw=2.5, label=f"crude reports: {score:.2f}")
    axis.axvline(common, color="black", ls=":", lw=2, label=f"commonest report for all: {common:.2f}")
    axis.set_xlim(0, max(0.6, score + 0.1))
    axis.set_xlabel("finding-level F1 (micro, test films)")
    axis.set_ylabel("shuffles")
    axis.legend(fontsize=8)
    return figure
