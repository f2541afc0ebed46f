"""The command: what is written, exit codes, workers of a cluster, and every reason not to start."""

import json
import shutil

import pandas as pd
import pytest
import torch

from cliniqure_utils import cli
from cliniqure_utils.runs import write_json


def test_every_film_gets_five_files_and_the_rest_a_reason(predicted):
    code, out = predicted
    assert code == 1
    names = ("one", "one_0005", "<img src=x onerror=alert(1)>")
    for name in names:
        for ending in ("_report.html", "_report.json", "_overlay.png", "_overlay.dcm", "_report.dcm"):
            assert (out / f"{name}{ending}").is_file(), name + ending
    assert len(list(out.iterdir())) == 5 * len(names) + 2
    rejected = pd.read_csv(out / "rejected.csv")
    assert list(rejected.columns) == ["source", "row", "image_id", "reason"]
    assert rejected.set_index("source").reason.to_dict() == {
        "photo.jpg": "photo.jpg: a colour picture; expected a grey chest film",
        "side.dcm": "side.dcm: a lateral view (ViewPosition LL); expected a frontal one (PA or AP)",
    }


def test_nothing_private_leaves_the_file(predicted, private):
    code, out = predicted
    for path in out.iterdir():
        content = path.read_bytes()
        for value in (*private.values(), "1.2.840.99.7.2", "Secretperson", "091Y"):
            assert value.encode() not in content, f"{path.name} holds {value}"


def test_the_command_uses_the_workers_of_a_cluster_and_says_when_there_is_none(
    films, run_dir, tmp_path, capsys, same_time
):
    from dask.distributed import LocalCluster

    command = ["predict", str(films / "one.dcm"), str(films / "photo.jpg"), "--run-dir", str(run_dir), "--no-llm"]
    local = {"processes": False, "dashboard_address": None}  # workers in this process need not import torch again
    with LocalCluster(n_workers=2, threads_per_worker=1, protocol="tcp", **local) as cluster:
        address = cluster.scheduler_address
        assert cli.main([*command, "--out", str(tmp_path / "spread"), "--dask", address]) == 1  # the photo is refused
        assert cluster.scheduler.transition_counter, "the cluster was given nothing to do"
    assert cli.main([*command, "--out", str(tmp_path / "alone")]) == 1
    one, other = (json.loads((tmp_path / name / "one_report.json").read_text()) for name in ("spread", "alone"))
    assert one == other
    with LocalCluster(n_workers=0, protocol="tcp", **local) as cluster:
        address = cluster.scheduler_address
        assert cli.main([*command, "--out", str(tmp_path / "none"), "--dask", address]) == 2
    assert f"the Dask scheduler at {address} has no worker" in capsys.readouterr().err
    assert cli.main([*command, "--out", str(tmp_path / "none"), "--dask", "nowhere"]) == 2
    assert "no Dask scheduler answers at nowhere" in capsys.readouterr().err


def test_facts_alone_and_symptoms_by_film(films, run_dir, predicted, tmp_path, capsys, same_time):
    table = tmp_path / "symptoms.csv"
    table.write_text("image_id,symptoms\none,short of breath\nnobody,none\n")
    command = ["predict", str(films / "one.dcm"), "--run-dir", str(run_dir), "--out", str(tmp_path / "o"), "--no-llm"]
    assert cli.main([*command, "--symptoms-csv", str(table)]) == 0
    report = json.loads((tmp_path / "o" / "one_report.json").read_text())
    assert report["report"]["system"] == "template" and report["symptoms"] == "short of breath"
    assert report["report"]["text"] == report["report"]["facts"]
    assert "1 rows with symptoms name no film here, the first nobody" in capsys.readouterr().out
    with_prose = json.loads((predicted[1] / "one_report.json").read_text())
    for part in ("film", "findings", "boxes", "crude_report"):
        assert report[part] == with_prose[part], "two processes say the same as one"
    again = {p.name: p.read_bytes() for p in (tmp_path / "o").iterdir() if p.suffix != ".dcm"}
    assert cli.main([*command, "--symptoms-csv", str(table)]) == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "o").iterdir() if p.suffix != ".dcm"} == again


def test_nothing_readable_is_1_and_says_so(run_dir, tmp_path, write_dicom, grey):
    write_dicom(tmp_path / "hand.dcm", grey, BodyPartExamined="HAND")
    out = tmp_path / "out"
    assert cli.main(["predict", str(tmp_path), "--run-dir", str(run_dir), "--out", str(out), "--no-llm"]) == 1
    assert sorted(path.name for path in out.iterdir()) == ["index.html", "rejected.csv"]
    assert "the body part is HAND" in (out / "index.html").read_text()


def test_a_file_that_is_no_picture_is_not_called_dicom(run_dir, tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("Dear colleague")
    (tmp_path / "saved.png").write_text("<html>")
    inputs = [str(tmp_path / name) for name in ("letter.txt", "saved.png")]
    assert cli.main(["predict", *inputs, "--run-dir", str(run_dir), "--out", str(tmp_path / "o"), "--no-llm"]) == 1
    said = capsys.readouterr().out
    for name in ("letter.txt", "saved.png"):
        assert f"not read: {name}: neither DICOM nor PNG nor JPEG by its content" in said
    assert "0 reports, 2 files not read" in said


def test_what_cannot_start_is_2_in_one_line(films, run_dir, tmp_path, capsys):
    one = str(films / "one.dcm")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "bad.csv").write_text("name,text\na,b\n")
    (tmp_path / "twice.csv").write_text("image_id,symptoms\na,b\na,c\n")
    broken = tmp_path / "broken"
    shutil.copytree(run_dir, broken)
    (broken / "03_classify" / "model.safetensors").unlink()
    needs_adapter = tmp_path / "needs_adapter"
    shutil.copytree(run_dir, needs_adapter)
    record = json.loads((needs_adapter / "run.json").read_text())
    record["notebooks"]["07_evaluate"]["parameters"]["report_system"] = "causal_lm"
    write_json(needs_adapter / "run.json", record)

    def said(*arguments, run=run_dir, out=tmp_path / "out"):
        assert cli.main(["predict", *map(str, arguments), "--run-dir", str(run), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("cliniqure: ") and error.count("\n") == 1, error
        return error

    assert "there is no file or folder" in said(tmp_path / "nowhere")
    assert "no DICOM, PNG or JPEG file in" in said(tmp_path / "empty")
    assert "there is no run folder" in said(one, run=tmp_path / "nowhere")
    assert "run notebooks/02_detect.ipynb first" in said(one, run=tmp_path / "empty")
    assert "run notebooks/03_classify.ipynb first" in said(one, "--no-llm", run=broken)
    assert "adapter/causal_lm is missing: run notebooks/05_finetune_llm.ipynb first; or give --no-llm" in said(
        one, run=needs_adapter
    )
    assert "is a file; expected a folder" in said(one, out=tmp_path / "file")
    assert "is one of the folders with films" in said(films, out=films)
    assert "expected columns image_id and symptoms, found name, text" in said(
        one, "--symptoms-csv", tmp_path / "bad.csv"
    )
    assert "a is there twice" in said(one, "--symptoms-csv", tmp_path / "twice.csv")
    assert "cannot be used (Not a directory)" in said(one, "--no-llm", out=tmp_path / "file" / "below")
    assert "unknown device gpu: expected auto, cpu, cuda or mps" in said(one, "--device", "gpu")
    if not torch.cuda.is_available():
        assert "there is no device cuda on this machine" in said(one, "--device", "cuda", "--no-llm")
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit) as stop:
        cli.main(["predict", one, "--run-dir", str(run_dir), "--out", "o", "--n-jobs", "0"])
    assert stop.value.code == 2 and "expected a whole number from 1" in capsys.readouterr().err
