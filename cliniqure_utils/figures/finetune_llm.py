"""Figures of notebook 05: what LoRA trains, its losses, and what a training step costs."""

import numpy as np
import pandas as pd

from cliniqure_utils.figures.style import BLUE, ORANGE, SKY, new_figure


def plot_lora(layers: int, width: int, rank: int, trainable: int, total: int):
    """The paper's figure 3 with this model's numbers: frozen W beside the two thin LoRA matrices. Figure."""
    from matplotlib.patches import Rectangle

    figure, axes = new_figure(1, 2, width=8.4, height=3.0, width_ratios=[1.3, 1])
    axis = axes[0, 0]
    axis.set_xlim(0, 10)
    axis.set_ylim(0, 6)
    axis.axis("off")
    for x, y, w, h, colour, hatch, text in (
        (1, 1.2, 3.4, 3.4, SKY, "", f"W, frozen\n{width} x {width}"),
        (6.0, 3.0, 3.2, 0.5, ORANGE, "//", f"A: {rank} x {width}"),
        (7.3, 0.6, 0.5, 2.0, ORANGE, "..", f"B: {width} x {rank}"),
    ):
        axis.add_patch(Rectangle((x, y), w, h, facecolor=colour, edgecolor="black", hatch=hatch))
        beside = hatch == ".."
        axis.text(x + (w + 0.2 if beside else w / 2), y + h / 2 + (0.6 if hatch == "//" else 0), text,
                  ha="left" if beside else "center", va="center", fontsize=9)  # fmt: skip
    axis.annotate("", (2.7, 1.1), (2.7, 0.2), arrowprops={"arrowstyle": "->"})
    axis.text(2.9, 0.1, "x: hidden states of the tokens of a text", fontsize=8)
    axis.text(0.1, -0.75, "seq_cls: symptom texts, nothing else. causal_lm: prompts and reports.\n"
              "No film, box or probability enters but as words.", fontsize=8, va="center")  # fmt: skip
    axis.text(4.9, 2.9, "+", fontsize=18, ha="center")
    axis.set_title(f"query and value of {layers} layers: W x + (alpha / r) B A x", fontsize=9)
    bars = axes[0, 1]
    bars.barh(
        ["all weights", "trained with LoRA"], [total, trainable], color=[SKY, ORANGE], hatch="", edgecolor="black"
    )
    for row, count in enumerate((total, trainable)):
        bars.text(1.4, row, f"{count:,}", va="center", fontsize=9)
    bars.set_xscale("log")
    bars.set_xlim(left=1)
    bars.set_xlabel("parameters (log scale)")
    bars.set_title(f"{trainable / total:.2%} of the weights are trained", fontsize=9)
    return figure


def plot_learning(numbering: pd.DataFrame, chance: float, writing: pd.DataFrame):
    """How both objectives learn, on texts that train and on texts held out. Figure.

    Args:
        numbering, writing: Histories of seq_cls and causal_lm (`writer.fine_tuning.fine_tune` with held-out items).
        chance: Accuracy of guessing a disease.
    """
    figure, axes = new_figure(1, 3, width=10.4, height=3.0)
    for axis, history, title in (
        (axes[0, 0], numbering, "seq_cls: which disease?"),
        (axes[0, 2], writing, "causal_lm: write"),
    ):
        for column, colour, marker, label in (
            ("loss", BLUE, "o", "trained on"),
            ("held_out_loss", ORANGE, "s", "held out"),
        ):
            points = history.dropna(subset=[column])
            axis.plot(points.epoch, points[column], color=colour, marker=marker, ms=4, label=label)
        axis.set_ylim(bottom=0)
        axis.set_ylabel("loss")
        axis.set_title(title, fontsize=10)
    points = numbering.dropna(subset=["held_out_accuracy"])
    axes[0, 1].plot(points.epoch, points.held_out_accuracy, color=ORANGE, marker="s", ms=4, label="held out")
    axes[0, 1].axhline(chance, color="black", ls="--", label=f"guessing ({chance:.2f})")
    axes[0, 1].set_ylim(0, 1)
    axes[0, 1].set_ylabel("accuracy")
    axes[0, 1].set_title("seq_cls: share of diseases named right", fontsize=10)
    for axis in axes[0]:
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, frameon=False)
    return figure


HELD = ("weights", "gradients", "optimizer")  # what stays in memory between two training steps


def plot_costs(costs: pd.DataFrame):
    """Cost of a training step with LoRA and without: trained weights, memory held, seconds. Figure.

    Args:
        costs: One row per way of training, columns as in `writer.fine_tuning.step_cost`.
    """
    figure, axes = new_figure(1, 3, width=9.6, height=1.5 + 0.45 * len(costs), width_ratios=[1, 1.5, 1])
    names = list(costs.index)
    for axis, values, title in (
        (axes[0, 0], costs["trainable"] / 1e6, "trained weights, millions"),
        (axes[0, 2], costs["seconds"], "seconds a step"),
    ):
        axis.barh(names, values, color=BLUE, edgecolor="black")
        for row, value in enumerate(values):
            inside = value > 0.6 * values.max()
            axis.text(value, row, f" {value:.1f} ", va="center", ha="right" if inside else "left", fontsize=8,
                      color="white" if inside else "black")  # fmt: skip
        axis.set_title(title, fontsize=9)
    axis, left = axes[0, 1], np.zeros(len(costs))
    for colour, hatch, part in zip((SKY, ORANGE, "#009E73"), ("", "//", ".."), HELD, strict=True):
        axis.barh(names, costs[part], left=left, label=part, color=colour, hatch=hatch, edgecolor="black")
        left = left + costs[part].to_numpy()
    for row, total in enumerate(left):
        axis.text(total, row, f" {total:,.0f}", va="center", fontsize=8)
    axis.set_xlim(0, 1.2 * left.max())
    axis.set_title("memory held between steps, MB", fontsize=9)
    axis.legend(fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.22), frameon=False)
    for axis in axes[0]:
        axis.invert_yaxis()
    for axis in axes[0, 1:]:
        axis.set_yticks([])
    return figure
