"""Films classified by torchxrayvision's network instead of the run's classifier."""

import hashlib
import json

import pytest
import torch

from cliniqure_utils import cli
from cliniqure_utils.vision.xrv import load_xrv
from cliniqure_utils.vocabulary import CLASSES, FINDINGS

LEFT_OUT = ["Aortic enlargement", "Calcification", "ILD", "Other lesion"]


@pytest.fixture
def weights(xrv_network, tmp_path):
    """A file whose network is sure of a fracture and an effusion, and of nothing else."""
    path = tmp_path / "private" / "eyes.pt"
    path.parent.mkdir()
    state = {name: value.clone() for name, value in xrv_network.state_dict().items()}
    state["op_threshs"] = torch.full((18,), 0.1)
    state["classifier.weight"] /= 100
    state["classifier.bias"] = torch.tensor(
        [4.0 if name in ("Fracture", "Effusion") else -4.0 for name in xrv_network.targets]
    )
    torch.save(state, path)
    return path


def test_eyes_say_what_they_know_and_the_run_the_rest(films, run_dir, predicted, weights, tmp_path):
    out = tmp_path / "out"
    command = ["predict", str(films / "one.dcm"), "--run-dir", str(run_dir), "--out", str(out), "--no-llm"]
    assert cli.main([*command, "--eyes", f"xrv:{weights}"]) == 0
    report = json.loads((out / "one_report.json").read_text())
    said = {entry["name"]: entry for entry in report["findings"]}
    assert list(said) == [name for name in CLASSES if name not in LEFT_OUT]
    assert [name for name, entry in said.items() if entry["present"]] == ["Pleural effusion"]
    assert said["Pleural effusion"]["probability"] == pytest.approx(0.99, abs=0.01)
    assert all(entry["threshold"] == 0.5 for entry in said.values())
    assert "There is a pleural effusion" in report["report"]["facts"]
    assert report["film"]["notes"] == [
        "torchxrayvision's network also says what is no finding of this project: Fracture (0.99)"
    ]
    assert report["made_by"]["eyes"] == "eyes.pt" and report["made_by"]["left_out"] == LEFT_OUT
    digest = hashlib.sha256(
        b"".join(value.numpy().tobytes() for value in load_xrv(f"xrv:{weights}").state_dict().values())
    )
    assert report["made_by"]["weights"]["eyes.pt"] == digest.hexdigest()
    own = json.loads((predicted[1] / "one_report.json").read_text())
    assert own["made_by"]["eyes"] is None and own["made_by"]["left_out"] == []
    assert (report["boxes"], report["crude_report"]) == (own["boxes"], own["crude_report"])
    for page in ("one_report.html", "index.html"):
        text = (out / page).read_text().replace("&#39;", "'")
        assert "torchxrayvision's network eyes.pt, which learnt from films of patients" in text
        assert f"not asked about {', '.join(LEFT_OUT)}, which it does not know" in text
        assert "of the run's own models, trained on simulated films" in text and "private" not in text
    boxed = {box["class_name"] for box in report["boxes"]}  # a finding that the eyes do not know can have a box, too
    named = [name for name in FINDINGS if name == "Pleural effusion" or name in boxed]
    assert f"<td>{', '.join([*named, 'Fracture'])}</td>" in (out / "index.html").read_text()
    assert "Probabilities of eyes.pt" in (out / "one_report.html").read_text()


def test_eyes_that_are_not_there_are_one_sentence(films, run_dir, tmp_path, capsys):
    command = ["predict", str(films / "one.dcm"), "--run-dir", str(run_dir), "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--eyes", "xrv:gone.pt"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("cliniqure: --eyes: gone.pt is no file, and no DenseNet of torch")
    assert not (tmp_path / "out").exists()


def test_the_film_is_seen_at_full_size(films, run_dir, weights, tmp_path):
    """Not the run's cache of 128 pixels, of which the network's 224 could only be blown up."""
    from cliniqure_utils.dicom.archive import small_film

    out = tmp_path / "out"
    tall = next(path for path in sorted((run_dir.parent / "films").iterdir()) if path.stem == "compressed")
    command = ["predict", str(tall), "--run-dir", str(run_dir), "--out", str(out), "--no-llm"]
    assert cli.main([*command, "--eyes", f"xrv:{weights}"]) == 0
    said = {e["name"]: e["probability"] for e in json.loads((out / "compressed_report.json").read_text())["findings"]}
    full, cached = (load_xrv(f"xrv:{weights}").ask(small_film(tall, side)[0])[0] for side in (1024, 128))
    assert said == pytest.approx(full, abs=1e-7) and said != pytest.approx(cached, abs=1e-7)
