"""Figures of notebook 04: where a word looked, which memory slots it asked, and how good crude reports are."""

from collections.abc import Sequence

import numpy as np

from cliniqure_utils.figures import BLUE, ORANGE, new_figure, show_film

GRID = 7  # patches per side


def slot_shares(slots: np.ndarray, weights: np.ndarray, n_slots: int) -> np.ndarray:
    """Share of each memory slot in the answers that some queries received.

    Args:
        slots: int (queries, heads, topk): slots asked.
        weights: Same shape: their weights, summing to 1 per query and head.
        n_slots: Size of the memory.

    Returns:
        (queries, n_slots), mean over heads; each row sums to 1.
    """
    slots, weights = np.asarray(slots), np.asarray(weights, dtype=float)
    shares = np.zeros((len(slots), n_slots))
    rows = np.broadcast_to(np.arange(len(slots))[:, None, None], slots.shape)
    np.add.at(shares, (rows, slots), weights / slots.shape[1])
    return shares


def plot_words_on_film(film: np.ndarray, words: Sequence[str], weights: np.ndarray, n_columns: int = 4):
    """What the decoder looked at while it chose each of some words.

    Args:
        film: uint8 (height, width), square.
        words: Labels.
        weights: (len(words), 49) attention over the 7 x 7 patches relative to the average word: 1 is as usual, only
            what lies above 1 is coloured.
        n_columns: Panels per row.

    Returns:
        Figure: the film, then one panel per word; orange where the word looked more than words do on average (full
        colour: twice as much or more), a dashed square on the patch with the largest ratio.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    n_rows = -(-(1 + len(words)) // n_columns)
    figure, axes = new_figure(n_rows, n_columns, width=1.85 * n_columns, height=2.05 * n_rows)
    panels = axes.ravel()
    show_film(panels[0], film, "film")
    side = film.shape[0]
    cell = side / GRID
    for axis, word, row in zip(panels[1:], words, weights, strict=False):
        show_film(axis, film, f"“{word}”")
        overlay = np.empty((GRID, GRID, 4))
        overlay[..., :3] = to_rgb(ORANGE)
        overlay[..., 3] = 0.65 * np.clip(np.reshape(row, (GRID, GRID)) - 1, 0, 1)
        axis.imshow(overlay, extent=(0, side, side, 0), interpolation="bilinear")
        y, x = divmod(int(np.argmax(row)), GRID)
        axis.add_patch(Rectangle((x * cell, y * cell), cell, cell, fill=False, ec="white", ls="--", lw=1.2))
        axis.set_xlim(0, side)
        axis.set_ylim(side, 0)
    for axis in panels[1 + len(words) :]:
        axis.axis("off")
    return figure


def plot_memory(word_shares: np.ndarray, patch_shares: np.ndarray, words: Sequence[str]):
    """One memory, two kinds of visitors.

    Args:
        word_shares: (len(words), slots), rows of `slot_shares`.
        patch_shares: (slots,) mean share over the patches of the film.
        words: Labels.

    Returns:
        Figure: above, each slot's share in the answers to the patches; below, in the answers to each word. Slots are
        sorted by their use by patches, so a word that is dark on the left asks what the patches ask.
    """
    from matplotlib.ticker import PercentFormatter

    order = np.argsort(-patch_shares, kind="stable")
    figure, axes = new_figure(
        2, 1, width=7.4, height=2.4 + 0.24 * len(words), sharex=True,
        height_ratios=(1.4, 0.5 + 0.24 * len(words)),
    )  # fmt: skip
    above, below = axes[0, 0], axes[1, 0]
    above.bar(np.arange(len(order)), patch_shares[order], width=1.0, color=BLUE)
    above.set_ylabel("49 patches")
    above.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    drawn = below.imshow(word_shares[:, order], aspect="auto", cmap="Greys", vmin=0, interpolation="nearest")
    below.set_yticks(range(len(words)), words, fontsize=8)
    below.set_xlabel("memory slot, sorted by how much the patches use it")
    figure.colorbar(drawn, ax=below, label="share of the answer", format=PercentFormatter(1, decimals=0))
    return figure


def plot_against_controls(score: float, shuffled: np.ndarray, common: float):
    """Finding-level F1 of the crude reports beside the shuffled-film control (histogram) and the commonest report."""
    figure, axes = new_figure(1, 1, width=6.4, height=2.6)
    axis = axes[0, 0]
    low, high = np.percentile(shuffled, [2.5, 97.5])
    axis.hist(shuffled, bins="sturges", color=ORANGE, hatch="//", edgecolor="white", label="shuffled among films")
    axis.axvspan(low, high, color=ORANGE, alpha=0.2, label="95% of the shuffles")
    axis.axvline(score, color=BLUE, lw=2.5, label=f"crude reports: {score:.2f}")
    axis.axvline(common, color="black", ls=":", lw=2, label=f"commonest report for all: {common:.2f}")
    axis.set_xlim(-0.01, max(0.5, score + 0.1))
    axis.set_xlabel("finding-level F1 (micro, test films)")
    axis.set_ylabel("shuffles")
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
