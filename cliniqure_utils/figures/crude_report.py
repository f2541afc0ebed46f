"""Figures of notebook 04: which patches and which memory slots a word attended to, and how good crude reports are."""

import math
from collections.abc import Sequence

import numpy as np

from cliniqure_utils.figures.style import BLUE, ORANGE, new_figure, show_film


def slot_shares(slots: np.ndarray, weights: np.ndarray, n_slots: int) -> np.ndarray:
    """Share of each memory slot in the responses that some queries received.

    Args:
        slots: int (queries, heads, topk): slots that each query chose.
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


def same_slots(word_shares: np.ndarray, patch_shares: np.ndarray) -> np.ndarray:
    """How far words and patches use the same memory slots: only there can a word be linked to a place on the film.

    Args:
        word_shares: (words, slots), rows of `slot_shares`.
        patch_shares: (patches, slots), likewise.

    Returns:
        (words, patches) in [0, 1]: 1 where both use the same slots with the same weights, 0 where they share none
        (intersection of the two rows; source: ours).
    """
    return np.minimum(np.asarray(word_shares)[:, None], np.asarray(patch_shares)[None]).sum(-1)


def _colour_patches(axis, film: np.ndarray, strength: np.ndarray) -> None:
    """The film, orange where `strength` (patches,) is large (0 none, 1 full), a dashed square on its largest patch."""
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    side, grid = film.shape[0], math.isqrt(len(strength))
    cell = side / grid
    overlay = np.empty((grid, grid, 4))
    overlay[..., :3] = to_rgb(ORANGE)
    overlay[..., 3] = 0.65 * np.clip(np.reshape(strength, (grid, grid)), 0, 1)
    axis.imshow(overlay, extent=(0, side, side, 0), interpolation="bilinear")
    y, x = divmod(int(np.argmax(strength)), grid)
    axis.add_patch(Rectangle((x * cell, y * cell), cell, cell, fill=False, ec="white", ls="--", lw=1.2))
    axis.set_xlim(0, side)
    axis.set_ylim(side, 0)


def plot_words_on_film(film: np.ndarray, words: Sequence[str], weights: np.ndarray, n_columns: int = 4):
    """What the decoder looked at while it chose each of some words.

    Args:
        film: uint8 (height, width), square.
        words: Labels.
        weights: (len(words), patches) attention over the patches of a square grid, relative to the average word: 1 is
            as usual, only what lies above 1 is coloured.
        n_columns: Panels per row.

    Returns:
        Figure: the film, then one panel per word; orange where the word looked more than words do on average (full
        colour: twice as much or more), a dashed square on the patch with the largest ratio.
    """
    n_rows = -(-(1 + len(words)) // n_columns)
    figure, axes = new_figure(n_rows, n_columns, width=1.85 * n_columns, height=2.05 * n_rows)
    panels = axes.ravel()
    show_film(panels[0], film, "film")
    for axis, word, row in zip(panels[1:], words, weights, strict=False):
        show_film(axis, film, f"“{word}”")
        _colour_patches(axis, film, np.asarray(row) - 1)
    for axis in panels[1 + len(words) :]:
        axis.axis("off")
    return figure


def plot_words_in_memory(
    film: np.ndarray,
    words: Sequence[str],
    looked: np.ndarray,
    word_shares: np.ndarray,
    patch_shares: np.ndarray,
    n_slots: int = 12,
):
    """The way from a word through the memory to the film, one column per word.

    Args:
        film: uint8 (height, width), square.
        words: Labels, four or five at most.
        looked: (len(words), patches) attention over the patches of a square grid, relative to the average word of the
            report.
        word_shares: (len(words), slots), rows of `slot_shares`.
        patch_shares: (patches, slots), likewise.
        n_slots: Bars per word.

    Returns:
        Figure. First row: where the decoder looked while it chose the word. Second row: the patches that had asked the
        memory for the same slots as the word does (`same_slots`: orange from the mean patch on, full colour at the
        largest; both numbers above). Third row: the slots that the word asks most, and what the patches ask of those.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    word_shares, patch_shares = np.asarray(word_shares), np.asarray(patch_shares)
    shared = same_slots(word_shares, patch_shares)
    figure, axes = new_figure(3, len(words), width=1.9 * len(words) + 0.6, height=6.0)
    for column, word in enumerate(words):
        show_film(axes[0, column], film, f"“{word}”")
        _colour_patches(axes[0, column], film, np.asarray(looked[column]) - 1)
        mean, most = shared[column].mean(), shared[column].max()
        show_film(axes[1, column], film, f"mean {100 * mean:.0f}%, most {100 * most:.0f}%")
        _colour_patches(axes[1, column], film, (shared[column] - mean) / max(most - mean, 1e-9))
        axis = axes[2, column]
        top = np.argsort(-word_shares[column], kind="stable")[:n_slots]
        places = np.arange(len(top))
        axis.barh(places - 0.2, word_shares[column, top], 0.4, color=ORANGE, hatch="//", ec="white", label="the word")
        axis.barh(places + 0.2, patch_shares[:, top].mean(0), 0.4, color=BLUE, label="mean patch")
        axis.set_yticks(places, top, fontsize=7)
        axis.invert_yaxis()
        axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        axis.tick_params(axis="x", labelsize=7)
        axis.set_xlabel("share of the answer", fontsize=8)
    axes[2, 0].set_ylabel("memory slot")
    figure.legend(*axes[2, 0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2)
    for row, name in enumerate(("looked here", "asked the same slots")):
        axes[row, 0].set_ylabel(name)
    return figure


def plot_memory(word_shares: np.ndarray, patch_shares: np.ndarray, words: Sequence[str]):
    """Which slots of the shared memory the patches use, and which the words use.

    Args:
        word_shares: (len(words), slots), rows of `slot_shares`.
        patch_shares: (slots,) mean share over the patches of the film.
        words: Labels.

    Returns:
        Figure: above, each slot's share in the responses to the patches; below, in the responses to each word. Slots
        are sorted by their use by patches, so a word that is dark on the left uses the slots that the patches use.
    """
    from matplotlib.ticker import PercentFormatter

    order = np.argsort(-patch_shares, kind="stable")
    figure, axes = new_figure(
        2, 1, width=7.4, height=2.4 + 0.24 * len(words), sharex=True,
        height_ratios=(1.4, 0.5 + 0.24 * len(words)),
    )  # fmt: skip
    above, below = axes[0, 0], axes[1, 0]
    above.bar(np.arange(len(order)), patch_shares[order], width=1.0, color=BLUE)
    above.set_ylabel("the patches")
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
