"""Bootstrap intervals beside a loop that calls scikit-learn on each resample, VinDr-CXR's size; the labeller."""

import numpy as np
from common import Bench, cost, cpu_seconds
from sklearn import metrics as sk

from cliniqure_utils import metrics
from cliniqure_utils.labeller import find_mentions

N_IMAGES, N_CLASSES, N_RESAMPLES = 3000, 15, 1000
LOOPED = 5  # resamples of the plain loop that are timed; its cost grows in step with their number


def plain_scores(references: np.ndarray, predictions: np.ndarray) -> None:
    for average in ("micro", "macro", "weighted", "samples"):
        sk.precision_recall_fscore_support(references, predictions, average=average, zero_division=0)
    sk.hamming_loss(references, predictions)


def main() -> None:
    bench = Bench("metrics")
    rng = np.random.default_rng(0)
    references = rng.random((N_IMAGES, N_CLASSES)) < rng.uniform(0.02, 0.4, N_CLASSES)
    probabilities = np.clip(0.3 * references + rng.random(references.shape), 0, 1)
    predictions = probabilities > 0.7
    resamples = [rng.integers(N_IMAGES, size=N_IMAGES) for _ in range(LOOPED)]
    both = {"references": references, "n_resamples": N_RESAMPLES}

    def loop(function, answers) -> None:
        for rows in resamples:
            function(references[rows], answers[rows])

    print(f"{N_IMAGES} images, {N_CLASSES} classes, {N_RESAMPLES} resamples; the loop is timed on {LOOPED} of them")
    total = 0.0
    for name, ours, plain in (
        (
            "13 scores of decisions",
            lambda: metrics.classification_intervals(predictions=predictions, **both),
            lambda: loop(plain_scores, predictions),
        ),
        (
            "macro AUROC",
            lambda: metrics.macro_auroc_interval(probabilities=probabilities, **both),
            lambda: loop(lambda r, p: sk.roc_auc_score(r, p, average="macro"), probabilities),
        ),
    ):
        found, slow = cost(ours, plain, repeats=2)
        total += found.cpu / 1000
        bench.compare(f"bootstrap of {name}", "CPU s", found.cpu / 1000, slow.cpu / 1000 * N_RESAMPLES / LOOPED,
                      "scikit-learn, resample by resample")  # fmt: skip
    bench.state("all classification metrics together", "CPU s", total)
    seconds = cpu_seconds(lambda: find_mentions("effusion, " * 200))
    bench.state("labeller, a sentence of 200 findings", "CPU s", seconds)
    bench.write()
