"""Shared by all tests: one thread per process, no network look-ups, where the project lies, and runs of the notebooks.

Tests that look at a run of the seven notebooks ask for `smoke_run`, `paper_run` or `beyond_run`. Such a run starts when
the tests have been collected and goes on in the background while all other tests run; those that look at it come last.
"""

import contextlib
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

# Before numpy and torch are imported. Two shared cores: spinning threads would slow every small operation down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The project's top folder."""
    return REPOSITORY


@pytest.fixture(scope="session")
def anatomy_dir(repository) -> Path:
    """The demo cohort's anatomy cache, made once below data/ and shared by every test that simulates films."""
    from cliniqure_utils.cohort.anatomy import ensure_anatomy

    folder = repository / "data" / "demo" / "anatomy"
    ensure_anatomy(folder)
    return folder


@pytest.fixture(scope="session")
def vindr():
    """The readers' boxes of VinDr-CXR's 15,000 training films (Kaggle's file inside torchxrayvision), read once."""
    from cliniqure_utils.annotations import vindr_annotations

    return vindr_annotations()


def user_environment() -> dict[str, str]:
    """A user's environment for notebooks run by a test: without what is set above for this process."""
    own = {"OMP_NUM_THREADS", "MPLBACKEND", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM", "PYTEST_CURRENT_TEST"}
    kept = {name: value for name, value in os.environ.items() if name not in own}
    return kept | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}


@pytest.fixture(scope="session")
def run_environment() -> dict[str, str]:
    return user_environment()


def without_network(log: Path) -> dict[str, str]:
    """Variables that shut Python processes off from every network; `log` collects the hosts that they tried."""
    return {"PYTHONPATH": str(REPOSITORY / "tests" / "no_network"), "BLOCKED_LOG": str(log)}


@pytest.fixture
def closed_environment(tmp_path) -> dict[str, str]:
    """`run_environment` without a way out to a network; tmp_path/blocked.txt collects the hosts that were tried."""
    (tmp_path / "blocked.txt").touch()
    return user_environment() | without_network(tmp_path / "blocked.txt")


# Runs of the seven notebooks beside the tests

REHEARSAL = REPOSITORY / "tests" / "course" / "test_profiles_for_real_data.py"
# The smoke profile, but with the language model that the demo has: no other test trains and writes with it.
SMOKE = ["-m", "cliniqure_utils.cli", "run", "--profile", "smoke"]
SMOKE += ["--set", "05_finetune_llm.base_model=smollm2", "--set", "06_generate_report.base_model=smollm2", "--run-dir"]
# Fixture -> what Python runs in a folder of its own, where it makes the run folder `run`. They start in this order.
RUNS = {
    "smoke_run": [*SMOKE, "run"],
    "paper_run": [str(REHEARSAL), "paper"],
    "beyond_run": [str(REHEARSAL), "beyond"],
}


@dataclass
class NotebookRun:
    """A run of the seven notebooks, without a network and with one thread a process.

    Attributes:
        folder: Holds the run folder `run`, `log.txt` (all that was printed) and `blocked.txt` (hosts that were tried).
        returncode: How it ended; None when the tests ended first.
    """

    name: str
    folder: Path
    returncode: int | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")

    @property
    def blocked(self) -> str:
        return (self.folder / "blocked.txt").read_text()


class Background:
    """The wanted runs, one after another on the second core; two at once while a test waits for one."""

    def __init__(self, names: list[str]):
        self.folder = Path(tempfile.mkdtemp(prefix="cliniqure-tests-"))
        self.runs = {name: NotebookRun(name, self.folder / name) for name in names}
        self.waiting: queue.SimpleQueue[NotebookRun] = queue.SimpleQueue()
        self.processes: list[subprocess.Popen] = []
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        for run in self.runs.values():
            self.waiting.put(run)
        self.workers = [self._start_worker()]

    def result(self, name: str) -> NotebookRun:
        run = self.runs[name]
        if not run.ended.is_set() and len(self.workers) < 2:
            self.workers.append(self._start_worker())  # the core of the waiting test is free
        run.ended.wait()
        return run

    def _start_worker(self) -> threading.Thread:
        worker = threading.Thread(target=self._work, daemon=True)
        worker.start()
        return worker

    def _work(self) -> None:
        while True:
            try:
                run = self.waiting.get_nowait()
            except queue.Empty:
                return
            try:
                self._run(run)
            finally:
                run.ended.set()

    def _run(self, run: NotebookRun) -> None:
        run.folder.mkdir()
        (run.folder / "blocked.txt").touch()
        environment = user_environment() | without_network(run.folder / "blocked.txt") | {"OMP_NUM_THREADS": "1"}
        with open(run.folder / "log.txt", "w") as log:
            with self.lock:
                if self.stopping.is_set():
                    return
                process = subprocess.Popen(
                    [sys.executable, *RUNS[run.name]],
                    cwd=run.folder, env=environment, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                )  # fmt: skip
                self.processes.append(process)
            code = process.wait()
            run.returncode = None if self.stopping.is_set() else code

    def stop(self) -> None:
        """End what still runs, kernels included; the folder stays when a run failed."""
        import psutil

        with self.lock:
            self.stopping.set()
        for process in self.processes:
            if process.poll() is None:
                below = []
                with contextlib.suppress(psutil.NoSuchProcess):
                    below = psutil.Process(process.pid).children(recursive=True)
                process.terminate()  # the chain then ends its kernel and writes down where it was
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()
                for child in below:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()
        for worker in self.workers:
            worker.join(20)
        if not any(run.returncode for run in self.runs.values()):
            shutil.rmtree(self.folder, ignore_errors=True)


BACKGROUND = pytest.StashKey[Background]()


def pytest_collection_modifyitems(items):
    """What looks at a run comes last, in the order in which the runs start."""
    order = list(RUNS)
    items.sort(key=lambda item: max((1 + order.index(name) for name in order if name in item.fixturenames), default=0))


def pytest_collection_finish(session):
    wanted = [name for name in RUNS if any(name in item.fixturenames for item in session.items)]
    if wanted and not session.config.option.collectonly:
        session.config.stash[BACKGROUND] = Background(wanted)


def pytest_sessionfinish(session):
    background = session.config.stash.get(BACKGROUND, None)
    if background:
        background.stop()


@pytest.fixture(scope="session")
def smoke_run(request) -> NotebookRun:
    """The smoke profile, with the demo's language model, through the command line."""
    return request.config.stash[BACKGROUND].result("smoke_run")


@pytest.fixture(scope="session")
def smoke_command() -> list[str]:
    """The command of `smoke_run`, to which the run folder is added."""
    return [sys.executable, *SMOKE]


@pytest.fixture(scope="session")
def paper_run(request) -> NotebookRun:
    """The rehearsal of the profile `paper` in test_profiles_for_real_data.py."""
    return request.config.stash[BACKGROUND].result("paper_run")


@pytest.fixture(scope="session")
def beyond_run(request) -> NotebookRun:
    """The rehearsal of the profile `beyond`."""
    return request.config.stash[BACKGROUND].result("beyond_run")


@pytest.fixture(scope="session")
def write_dicom():
    """A function that writes a grey film as a DICOM file: (path, pixels uint8 or uint16, **tags) -> path."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    def write(path: Path, pixels, **tags) -> Path:
        meta = FileMetaDataset()
        uid = tags.get("SOPInstanceUID", "1.2.840.99.7.2")
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", uid
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, uid
        data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel, data.PixelRepresentation, data.PhotometricInterpretation = 1, 0, "MONOCHROME2"
        data.BitsAllocated = 8 * pixels.itemsize
        data.BitsStored = 8 if pixels.itemsize == 1 else 12
        data.HighBit = data.BitsStored - 1
        data.PixelData = pixels.tobytes()
        transfer_syntax = tags.pop("transfer_syntax", None)
        for name, value in tags.items():
            setattr(data, name, value)
        if transfer_syntax:
            data.compress(transfer_syntax)
        data.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, write_dicom) -> Path:
    """A run as notebooks 01 to 04 leave it, with small untrained models, beside the films that it read.

    run/ holds 01_preprocess to 04_crude_report and run.json; films/ the DICOM files. Its settings are none of the
    notebooks' own: another cache, mirrored films too, two beams; the classifier sees ranks, the detector grey values.
    """
    import numpy as np
    import pandas as pd
    import torch
    from pydicom.uid import JPEG2000Lossless

    from cliniqure_utils import cmn
    from cliniqure_utils.annotations import film_sizes
    from cliniqure_utils.dicom import convert_archive
    from cliniqure_utils.runs import write_json, write_jsonl, write_table
    from cliniqure_utils.vision import classification, detection, inference
    from cliniqure_utils.vision.calibration import apply_temperature
    from cliniqure_utils.vision.films import FilmDataset
    from cliniqure_utils.vocabulary import CLASSES

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("finished")
    run, source = folder / "run", folder / "films"
    source.mkdir()
    rng = np.random.default_rng(1)
    window = {"WindowCenter": 2000, "WindowWidth": 3000}
    for number, (image_id, (rows, columns), tags) in enumerate(
        (
            ("012", (120, 90), {}),
            ("compressed", (700, 560), window | {"transfer_syntax": JPEG2000Lossless}),
            ("wide", (260, 400), window),
        )
    ):
        blocks = np.kron(rng.integers(0, 4096, (rows // 10, columns // 10)), np.ones((10, 10), int))
        pixels = (blocks + rng.integers(-99, 99, blocks.shape)).clip(0, 4095).astype("<u2")
        write_dicom(source / f"{image_id}.dcm", pixels, SOPInstanceUID=f"1.2.840.99.8.{number}", **tags)
    index, _ = convert_archive(sorted(source.iterdir()), run / "01_preprocess" / "images", 128, n_jobs=1)
    write_table(run / "01_preprocess" / "index.csv", index)
    sizes, image_ids = film_sizes(index), list(index.image_id)
    films, ranked = (
        FilmDataset(run / "01_preprocess" / "images", image_ids, 96, sizes, grey=grey) for grey in ("none", "rank")
    )

    settings = dict(backbone="tiny", image_size=96, anchor_scales=[12, 48], neck="topdown", head_width=16)
    detector = detection.build_detector(**settings).eval()
    detection.save_detector(detector, run / "02_detect", settings)
    boxes = inference.predict_boxes(detector, films, sizes, progress=False, flip=True)
    write_table(run / "02_detect" / "predictions.csv", boxes)
    write_json(run / "02_detect" / "box_threshold.json", {"score": 0.03})

    classifier = classification.build_classifier("seresnet_tiny")
    classification.save_classifier(
        classifier, run / "03_classify",
        {"model_name": "seresnet_tiny", "image_size": 96, "heatmap_weight": 0.0, "grey": "rank"},
    )  # fmt: skip
    as_trained = inference.predict_probabilities(classifier, ranked, progress=False)
    table = pd.DataFrame(apply_temperature(as_trained.astype(float).round(5), 0.8).round(15), columns=list(CLASSES))
    table.insert(0, "image_id", image_ids)
    write_table(run / "03_classify" / "probabilities.csv", table)
    write_json(run / "03_classify" / "temperature.json", {"temperature": 0.8})
    write_json(run / "03_classify" / "thresholds.json", dict.fromkeys(CLASSES, 0.4))

    trunk = cmn.build_extractor("tiny")
    config = cmn.CMNConfig(visual_extractor="tiny", d_vf=trunk.channels, d_model=16, d_ff=16, num_heads=2, num_layers=1,
                           topk=4, cmm_size=8, cmm_dim=16, max_length=8, grey="rank")  # fmt: skip
    words = ["the lungs are clear .", "the heart is enlarged .", "there is a left pleural effusion ."]
    reporter = cmn.R2GenCMN(cmn.Tokenizer.from_reports(words, threshold=1), config, trunk)
    cmn.save(reporter, run / "04_crude_report")
    seen = cmn.ReportDataset(run / "01_preprocess" / "images", image_ids, reporter.tokenizer, grey="rank")
    texts = cmn.write_reports(reporter, [seen[n] for n in range(len(seen))], beam_size=2, max_length=6)
    crude = [{"image_id": i, "text": cmn.to_prose(text)} for i, text in zip(image_ids, texts, strict=True)]
    write_jsonl(run / "04_crude_report" / "crude_reports.jsonl", crude)

    parameters = {
        "01_preprocess": {"cache_size": 128},
        "02_detect": {"test_flip": True},
        "04_crude_report": {"beam_size": 2, "max_length": 6},
        "06_generate_report": {
            "base_model": "tiny-random", "models_dir": str(folder / "models"), "max_new_tokens": 8,
            "max_prompt_tokens": 700,
        },
        "07_evaluate": {"report_system": "base"},
    }  # fmt: skip
    notebooks = {name: {"status": "done", "profile": "tiny", "parameters": v} for name, v in parameters.items()}
    head = {"profile": "tiny", "seed": 1, "data": {"kind": "simulated"}}
    write_json(run / "run.json", head | {"notebooks": notebooks})
    return folder


@pytest.fixture(scope="session")
def xrv_network():
    """torchxrayvision's DenseNet with random weights, as its files hold it; its outputs are no certainties."""
    import torch

    torch.manual_seed(0)
    network = pytest.importorskip("torchxrayvision").models.DenseNet().eval()
    with torch.no_grad():
        logits = network(torch.randn(4, 1, 224, 224) * 500)
        network.classifier.weight /= logits.std()
        network.classifier.bias -= 2 + logits.mean(0) / logits.std()  # near the operating points of real weights
    return network
