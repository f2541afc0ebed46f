"""The smoke profile of the real notebooks through the command line, with no way out to a network."""

import json
import subprocess
import sys

import nbformat
import pandas as pd
import pytest

from cliniqure_utils.runs import STEPS, read_table

pytestmark = [pytest.mark.chain, pytest.mark.timeout(900)]

# Files of the design's tables, below the run folder.
EXPECTED = {
    "01_preprocess": "index.csv annotations.csv reader_annotations.csv splits.csv clinical.csv reference_reports.jsonl "
    "truth.csv rejected.csv",
    "02_detect": "predictions.csv trunk.safetensors model.safetensors config.json history.csv",
    "03_classify": "probabilities.csv thresholds.json temperature.json model.safetensors config.json history.csv "
    "familiar.npz",
    "04_crude_report": "crude_reports.jsonl model.safetensors vocabulary.json",
    "05_finetune_llm": "adapter/seq_cls/adapter_config.json adapter/seq_cls/adapter_model.safetensors "
    "adapter/causal_lm/adapter_config.json adapter/causal_lm/adapter_model.safetensors label_map.json history.csv",
    "06_generate_report": "prompts.jsonl reports.jsonl",
    "07_evaluate": "table7.csv claims.csv report.html",
}


PROBE = """import multiprocessing, socket, urllib.request

def attempt():
    for call in (
        lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
        lambda: urllib.request.urlopen("http://example.org", timeout=1),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.2", 53)),
    ):
        try:
            call()
        except OSError as error:
            print(error)
        else:
            print("got out")

attempt()
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
print("loopback is open")
worker = multiprocessing.get_context("spawn").Process(target=socket.getaddrinfo, args=("example.com", 80))
worker.start()
worker.join()
print("worker stopped" if worker.exitcode else "worker got out")"""


def test_the_block_reaches_kernels_and_their_workers(closed_environment, tmp_path):
    cells = [
        nbformat.v4.new_code_cell('run_dir = "../run"  # here', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(PROBE),
    ]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "01_probe.ipynb")
    code = "import sys; from cliniqure_utils.course.chain import run_chain; "
    code += "run_chain(notebooks_dir=sys.argv[1], run_dir='run')"
    command = [sys.executable, "-c", code, str(tmp_path / "notebooks")]
    result = subprocess.run(command, cwd=tmp_path, env=closed_environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("the test allows no connection to") >= 3
    assert "loopback is open" in result.stdout and "worker stopped" in result.stdout and "got out" not in result.stdout
    blocked = (tmp_path / "blocked.txt").read_text().split()
    assert blocked == ["192.0.2.1", "example.org", "192.0.2.2", "example.com"]


def test_the_smoke_chain_ends_well_without_a_network(smoke_run):
    assert smoke_run.returncode == 0, smoke_run.log[-8000:]
    assert smoke_run.blocked == "", "something tried to reach a network"
    assert "Executed notebooks: run/notebooks" in smoke_run.log
    assert "run/07_evaluate/report.html" in smoke_run.log and "Table 7" in smoke_run.log


def test_seven_executed_notebooks_without_an_error(smoke_run):
    copies = smoke_run.run_dir / "notebooks"
    assert sorted(path.stem for path in copies.glob("*.ipynb")) == list(STEPS)
    for name in STEPS:
        cells = json.loads((copies / f"{name}.ipynb").read_text())["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert all(cell["execution_count"] for cell in code), name
        outputs = [output for cell in code for output in cell["outputs"]]
        assert not [output for output in outputs if output["output_type"] == "error"], name
        shown = [output["data"] for output in outputs if "data" in output]
        assert any("image/png" in data for data in shown), name
        unseen = [d for d in shown if "".join(d.get("text/plain", "")).startswith("<Figure") and "image/png" not in d]
        assert unseen == [], f"{name}: a figure is shown as text"


@pytest.mark.parametrize("name", STEPS)
def test_every_promised_file_is_there(smoke_run, name):
    run_dir = smoke_run.run_dir
    missing = [file for file in EXPECTED[name].split() if not (run_dir / name / file).is_file()]
    assert missing == []
    metrics = json.loads((run_dir / name / "metrics.json").read_text())
    assert metrics and all("/" in key for key in metrics)
    assert all(value is None or isinstance(value, (int, float, str, bool)) for value in metrics.values())
    assert list((run_dir / name / "figures").glob("*.png"))
    if name == "01_preprocess":
        assert list((run_dir / name / "images").glob("*.png"))
    if name == "07_evaluate":
        table = [f"classification_{m}" for m in ("precision", "recall", "f1")] + ["iou", "dice"]
        table += [f"bertscore_{m}" for m in ("precision", "recall", "f1")]
        assert {f"table7/{key}" for key in table} <= set(metrics)


def test_run_json_holds_the_whole_run(smoke_run):
    run = json.loads((smoke_run.run_dir / "run.json").read_text())
    assert run["profile"] == "smoke" and run["status"] == "done" and run["seed"] == 2024
    assert run["device"] and run["processor"]
    assert run["data"]["kind"] == "simulated" and {"torch", "transformers"} <= set(run["versions"])
    assert list(run["notebooks"]) == list(STEPS)
    for name, entry in run["notebooks"].items():
        assert entry["status"] == "done" and entry["profile"] == "smoke" and entry["parameters"]["seed"] == 2024
        assert entry["seconds"] > 0 and 50 < entry["peak_memory_mb"] < 8000, name
        assert entry["outputs"]["metrics.json"]["sha256"]
    models = {name: entry["parameters"].get("base_model") for name, entry in run["notebooks"].items()}
    assert models["05_finetune_llm"] == models["06_generate_report"] == "smollm2"
    seconds = {name: entry["seconds"] for name, entry in run["notebooks"].items()}
    assert sum(seconds.values()) <= run["seconds"] + 1


def test_an_unchanged_chain_starts_no_notebook(smoke_run, smoke_command, run_environment):
    before = (smoke_run.run_dir / "run.json").read_bytes()
    result = subprocess.run(
        [*smoke_command, str(smoke_run.run_dir)], env=run_environment, capture_output=True, text=True
    )
    assert result.returncode == 0 and result.stdout.count("skipped, nothing has changed") == len(STEPS)
    assert (smoke_run.run_dir / "run.json").read_bytes() == before


def test_the_films_behind_the_run_give_the_rows_that_its_notebooks_wrote(smoke_run, repository):
    """From DICOM files through `read_images`: what 02 and 03 wrote of the cache that 01 made."""
    from cliniqure_utils.vision.inference import read_images

    run, data = smoke_run.run_dir, repository / "data" / "smoke" / "train"
    splits = read_table(run / "01_preprocess/splits.csv")
    test = sorted(splits.image_id[splits.split == "test"])
    found = read_images([data / f"{image_id}.dicom" for image_id in test], run, "cpu")
    for table, name in zip(found, ("03_classify/probabilities.csv", "02_detect/predictions.csv"), strict=True):
        written = read_table(run / name)
        written = written[written.image_id.isin(test)].reset_index(drop=True)
        pd.testing.assert_frame_equal(table, written, atol=1e-4, rtol=0)
