"""`make bench`: cost of the hot paths, each beside a plain alternative measured in the same run.

Prints tables and writes outputs/bench/*.json. All of them, or those named: `make bench ONLY="dicom boxes"`. Two
measure no cost: `make bench ONLY=real NIH=<folder>` scores a run on real films, `ONLY=checker` plants errors into
reports.
"""

import sys

import bench_boxes
import bench_checker
import bench_cmn
import bench_dicom
import bench_films
import bench_llm
import bench_metrics
import bench_models
import bench_predict
import bench_process
import bench_real

BENCHES = {
    "dicom": bench_dicom.main,
    "films": bench_films.main,
    "boxes": bench_boxes.main,
    "checker": bench_checker.main,
    "cmn": bench_cmn.main,
    "llm": bench_llm.main,
    "metrics": bench_metrics.main,
    "models": bench_models.main,
    "predict": bench_predict.main,
    "process": bench_process.main,
    "real": bench_real.main,
}

if __name__ == "__main__":
    wanted = sys.argv[1:] or list(BENCHES)
    unknown = [name for name in wanted if name not in BENCHES]
    if unknown:
        sys.exit(f"unknown bench {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    for name in wanted:
        BENCHES[name]()
