"""torchxrayvision's DenseNet: its own numbers, its files read without running anything, and what it does not know."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cliniqure_utils.project import MissingWeights
from cliniqure_utils.vision.xrv import load_xrv
from cliniqure_utils.vocabulary import CLASSES

LEFT_OUT = ("Aortic enlargement", "Calcification", "ILD", "Other lesion")


@pytest.fixture(scope="session")
def package():
    return pytest.importorskip("torchxrayvision")


@pytest.fixture
def published(package, xrv_network, tmp_path):
    """Save the network as a file that torchxrayvision publishes: `published("nih", new_format=True)`."""

    def save(name="all", new_format=False, network=xrv_network):
        path = tmp_path / Path(package.models.model_urls[name]["weights_url"]).name
        torch.save(network, path, _use_new_zipfile_serialization=new_format)
        return path

    return save


@pytest.mark.parametrize("new_format", [False, True])
def test_probabilities_are_torchxrayvision_s_own(package, xrv_network, published, new_format):
    path = published(new_format=new_format)
    with pytest.raises(Exception, match="[Ww]eights.only"):
        torch.load(path, weights_only=True)  # why there is a reader of our own
    film = np.random.default_rng(0).integers(0, 255, (260, 223), dtype=np.uint8)
    cropped = package.datasets.XRayCenterCrop()(package.utils.normalize(film, 255)[None])
    xrv_network.op_threshs = torch.tensor(package.models.model_urls["all"]["op_threshs"])
    xrv_network.input_resolution = 224
    with torch.no_grad():
        own = dict(zip(xrv_network.targets, xrv_network(torch.from_numpy(cropped)[None])[0].tolist(), strict=True))
    xrv_network.op_threshs = None
    del xrv_network.input_resolution
    assert 0.05 < min(own.values()) and max(own.values()) < 0.95  # nothing saturated: every output is compared

    eyes = load_xrv(f"xrv:{path}")
    ours, others = eyes.ask(film)
    assert eyes.left_out == LEFT_OUT and list(ours) == [name for name in CLASSES if name not in LEFT_OUT]
    for name, source in (
        ("Atelectasis", "Atelectasis"), ("Cardiomegaly", "Cardiomegaly"), ("Consolidation", "Consolidation"),
        ("Infiltration", "Infiltration"), ("Lung Opacity", "Lung Opacity"), ("Pleural effusion", "Effusion"),
        ("Pleural thickening", "Pleural_Thickening"), ("Pneumothorax", "Pneumothorax"),
        ("Pulmonary fibrosis", "Fibrosis"),
    ):  # fmt: skip
        assert ours[name] == pytest.approx(own[source], abs=1e-5), name
    assert ours["Nodule/Mass"] == pytest.approx(max(own["Nodule"], own["Mass"]), abs=1e-5)
    assert ours["No finding"] == pytest.approx(1 - max(own.values()), abs=1e-5)
    beside = ("Edema", "Emphysema", "Pneumonia", "Hernia", "Lung Lesion", "Fracture", "Enlarged Cardiomediastinum")
    assert others == pytest.approx({name: own[name] for name in beside}, abs=1e-5)


def test_it_takes_the_batches_of_our_classifiers_and_marks_what_it_lacks(published):
    logits = load_xrv(f"xrv:{published()}")(torch.rand(2, 1, 60, 60))["logits"]
    assert logits.shape == (2, 15)
    assert [name for k, name in enumerate(CLASSES) if logits[:, k].isnan().all()] == list(LEFT_OUT)
    assert logits.isnan().sum() == 2 * len(LEFT_OUT)


def test_an_output_that_a_training_lacked_is_left_out(published):
    """RSNA's weights know pneumonia and lung opacity; their other outputs were never trained."""
    eyes = load_xrv(f"xrv:{published('rsna')}")
    ours, others = eyes.ask(np.zeros((30, 30), dtype=np.uint8))
    assert list(ours) == ["Lung Opacity", "No finding"] and list(others) == ["Pneumonia"]
    assert "Cardiomegaly" in eyes.left_out and eyes(torch.rand(1, 1, 30, 30))["logits"].isnan().sum() == 13


def test_a_state_dict_under_any_name_brings_its_operating_points(package, xrv_network, published, tmp_path):
    film = np.random.default_rng(0).integers(0, 255, (40, 30), dtype=np.uint8)
    points = torch.tensor(package.models.model_urls["nih"]["op_threshs"])
    for new_format in (True, False):
        state = xrv_network.state_dict() | {"op_threshs": points}
        torch.save(state, tmp_path / "mine.pt", _use_new_zipfile_serialization=new_format)
        eyes = load_xrv(f"xrv:{tmp_path / 'mine.pt'}")
        assert eyes.ask(film) == load_xrv(f"xrv:{published('nih')}").ask(film)
    torch.save(xrv_network.state_dict(), tmp_path / "mine.pt")
    with pytest.raises(MissingWeights, match=r"mine.pt does not hold the operating points \(op_threshs\)"):
        load_xrv(f"xrv:{tmp_path / 'mine.pt'}")


def test_numbers_saved_on_a_gpu_are_read_without_one(published):
    """Its authors trained on GPUs: the file names another kind of storage for the same bytes."""
    path = published()
    film = np.random.default_rng(0).integers(0, 255, (40, 30), dtype=np.uint8)
    expected = load_xrv(f"xrv:{path}").ask(film)
    content = path.read_bytes()
    moved = content.replace(b"ctorch\nFloatStorage\n", b"ctorch.cuda\nFloatStorage\n")
    assert moved != content
    path.write_bytes(moved)
    assert load_xrv(f"xrv:{path}").ask(film) == expected


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("new_format", [False, True])
def test_nothing_in_a_file_runs(xrv_network, published, tmp_path, monkeypatch, new_format):
    monkeypatch.chdir(tmp_path)
    xrv_network.note = Evil()
    path = published(new_format=new_format)
    del xrv_network.note
    load_xrv(f"xrv:{path}")
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists(), "opened the usual way, the same file does run"


def test_what_is_not_there_or_no_such_network_is_one_sentence(package, published, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("Network is unreachable")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(package.utils, "download", refuse)
    with pytest.raises(MissingWeights, match=r"res224-nih are not on this machine .* \(OSError\); fetch https://.*pt "):
        load_xrv("xrv:densenet121-res224-nih")
    with pytest.raises(MissingWeights, match=r"gone.pt is no file, and no DenseNet .* has densenet121-res224-all, "):
        load_xrv("xrv:gone.pt")
    with pytest.raises(MissingWeights, match="expected xrv:NAME or xrv:PATH, found 'resnet50'"):
        load_xrv("resnet50")
    path = published()
    whole = path.read_bytes()
    for content in (b"", b"nothing", whole[:100_000], whole[:-5], whole.replace(b"classifier", b"klassifier")):
        path.write_bytes(content)
        with pytest.raises(MissingWeights, match="holds no DenseNet-121 of torchxrayvision"):
            load_xrv(f"xrv:{path}")


def test_its_own_folder_is_looked_into_before_a_download(package, published, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".torchxrayvision" / "models_data"
    folder.mkdir(parents=True)
    published("nih").rename(folder / Path(package.models.model_urls["nih"]["weights_url"]).name)
    assert load_xrv("xrv:densenet121-res224-nih").known == load_xrv("xrv:nih").known
