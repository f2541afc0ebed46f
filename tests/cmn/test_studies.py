"""Studies of two films: tables of views, pairing, the data set, and what a model of two views takes."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from cliniqure_utils import cmn, training

WORDS = ["<unk>", ".", "clear", "effusion", "heart", "large", "no", "the"]


class Means(nn.Module):
    def forward(self, images):
        patches = nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 7)
        return torch.cat([patches, patches**2, patches * 0 + 1], dim=1)


def two_view_model():
    torch.manual_seed(1)
    config = cmn.CMNConfig(dataset="iu_xray", visual_extractor="custom", d_vf=3, d_model=16, d_ff=16, num_heads=2,
                           num_layers=1, topk=3, cmm_size=6, cmm_dim=16, max_length=6, dropout=0.0,
                           feature_dropout=0.0)  # fmt: skip
    return cmn.R2GenCMN(cmn.Tokenizer(WORDS, "iu_xray"), config, Means()).eval()


@pytest.mark.parametrize(
    "text",
    [
        "image_id,study_id,view\na,1,PA\nb,1,Lateral\n",
        "dicom_id,subject_id,study_id,ViewPosition\na,77,1,PA\nb,77,1,LATERAL\n",
        "uid,filename,projection\n1,a.png,pa\n1,b.png,lateral\n",
    ],
    ids=["ours", "MIMIC-CXR", "Indiana"],
)
def test_tables_of_views_in_three_layouts(tmp_path, text):
    (tmp_path / "views.csv").write_text(text)
    films = cmn.read_views(tmp_path / "views.csv")
    assert films.to_dict("list") == {"image_id": ["a", "b"], "study_id": ["1", "1"], "view": ["PA", "LATERAL"]}
    studies, rejected = cmn.pair_views(films)
    assert studies.to_dict("records") == [{"study_id": "1", "frontal": "a", "lateral": "b"}] and rejected.empty


def test_unusable_tables_say_why(tmp_path):
    with pytest.raises(FileNotFoundError, match="views.csv does not exist"):
        cmn.read_views(tmp_path / "views.csv")
    (tmp_path / "views.csv").write_text("image,view\na,PA\n")
    with pytest.raises(ValueError, match="has columns image, view; expected image_id, study_id, view or dicom_id"):
        cmn.read_views(tmp_path / "views.csv")
    (tmp_path / "views.csv").write_bytes(b"")
    with pytest.raises(ValueError, match="is not a CSV table"):
        cmn.read_views(tmp_path / "views.csv")


def films(*rows):
    return pd.DataFrame(rows, columns=["study_id", "image_id", "view"])


def test_every_film_is_in_a_study_or_rejected_with_a_reason():
    table = films(
        ("s1", "b", "AP"), ("s1", "a", "PA"), ("s1", "c", "LL"), ("s1", "d", "OBLIQUE"), ("s1", "e", ""),
        ("s2", "f", "PA"), ("s3", "g", "LATERAL"), ("", "h", "PA"), ("s4", "k", "RL"), ("s4", "j", "AP"),
    )  # fmt: skip
    studies, rejected = cmn.pair_views(table)
    assert studies.to_numpy().tolist() == [["s1", "a", "c"], ["s4", "j", "k"]], "PA is preferred to AP"
    assert dict(zip(rejected.image_id, rejected.reason, strict=True)) == {
        "h": "the film names no study",
        "b": "a is the frontal film of this study",
        "d": "view OBLIQUE is neither frontal nor lateral",
        "e": "the view is not known",
        "f": "the study has no lateral film",
        "g": "the study has no frontal film",
    }
    used = set(studies.frontal) | set(studies.lateral)
    assert used | set(rejected.image_id) == set(table.image_id) and not used & set(rejected.image_id)
    shuffled, _ = cmn.pair_views(table.sample(frac=1, random_state=3))
    pd.testing.assert_frame_equal(shuffled, studies)
    repeated, rejected = cmn.pair_views(table, missing="repeat")
    assert ["s2", "f", "f"] in repeated.to_numpy().tolist() and "g" in set(rejected.image_id)
    assert cmn.pair_views(table.iloc[:0])[0].empty
    with pytest.raises(ValueError, match="unknown rule 'guess'"):
        cmn.pair_views(table, missing="guess")
    with pytest.raises(ValueError, match="film a is named twice"):
        cmn.pair_views(films(("s1", "a", "PA"), ("s2", "a", "PA")))


def test_the_frontal_film_comes_first_and_stands_in_for_a_missing_lateral_one():
    rng = np.random.default_rng(0)
    front, side = rng.random((64, 64)), rng.random((64, 80))
    model = two_view_model()
    pair = cmn.model_input(model, front, side)
    assert pair.equal(torch.stack([cmn.preprocess(front), cmn.preprocess(side)])[None])
    assert cmn.model_input(model, front).equal(pair[:, [0, 0]])
    swapped, straight = model.patch_features(pair.flip(1)), model.patch_features(pair)
    torch.testing.assert_close(swapped[:, :49], straight[:, 49:])


def test_a_model_refuses_another_number_of_views():
    model = two_view_model()
    with pytest.raises(ValueError, match=r"iu_xray reads 2 view.*expected images \(n, 2, 3, 224, 224\), found"):
        model.generate(torch.zeros(1, 3, 224, 224))
    with pytest.raises(ValueError, match="iu_xray reads 2 view"):
        model.generate(torch.zeros(1, 3, 3, 224, 224))
    single = cmn.CMNConfig(visual_extractor="custom", d_vf=3, d_model=16, num_heads=2, topk=3, cmm_size=6, cmm_dim=16)
    single = cmn.R2GenCMN(cmn.Tokenizer(WORDS), single, Means())
    with pytest.raises(ValueError, match=r"mimic_cxr reads 1 view.*expected images \(n, 3, 224, 224\), found"):
        single.generate(torch.zeros(1, 2, 3, 224, 224))
    assert cmn.model_input(single, np.zeros((9, 9)), np.ones((9, 9))).equal(cmn.preprocess(np.zeros((9, 9)))[None])


def test_a_two_view_model_learns_from_studies_of_the_cache(tmp_path):
    """The lateral film alone tells the studies apart: whoever ignores it cannot write both reports."""
    front, clear, fluid = (np.full((40, 40), grey, np.uint8) for grey in (90, 20, 220))
    for name, image in (("f", front), ("l1", clear), ("l2", fluid)):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    studies = pd.DataFrame({"study_id": ["s1", "s2"], "frontal": ["f", "f"], "lateral": ["l1", "l2"]})
    reports = {"s1": "No effusion", "s2": "Large effusion"}
    model = two_view_model()
    data = cmn.ReportDataset(tmp_path, studies, model.tokenizer, reports, max_length=6)
    assert data[1]["image_id"] == "s2" and data[1]["images"].shape == (2, 3, 224, 224)
    assert data[1]["ids"].tolist() == model.tokenizer.encode("Large effusion")
    plan = training.Plan(seed=0, epochs=15, batch_size=2, learning_rate=1e-2, scheduler="constant")
    training.fit(model, data, plan, output_dir=tmp_path / "made", device="cpu", collate=cmn.collate)
    assert cmn.write_reports(model, data) == ["no effusion .", "large effusion ."]


def test_the_data_set_of_single_films(tmp_path):
    Image.fromarray(np.full((30, 50), 60, np.uint8)).save(tmp_path / "a.png")
    tokenizer = cmn.Tokenizer(WORDS)
    data = cmn.ReportDataset(tmp_path, ["a"], tokenizer)
    assert len(data) == 1 and list(data[0]) == ["image_id", "images"] and data[0]["images"].shape == (3, 224, 224)
    long = cmn.ReportDataset(tmp_path, ["a"], tokenizer, {"a": "the heart " * 20}, max_length=5)
    assert len(long[0]["ids"]) == 6
    with pytest.raises(ValueError, match="a has no report to learn from"):
        cmn.ReportDataset(tmp_path, ["a"], tokenizer, {"b": "clear"})
    for text in ("", "  ", ". .", "?\n"):
        with pytest.raises(ValueError, match="the report of a is empty"):
            cmn.ReportDataset(tmp_path, ["a"], tokenizer, {"a": text})
    with pytest.raises(ValueError, match="is no file name"):
        cmn.ReportDataset(tmp_path, ["../a"], tokenizer)


def test_the_fingerprint_tells_films_and_reports_apart(tmp_path):
    """By it `training.fit` knows whether a checkpoint is of the same training."""

    def of(films=("a", "b"), b="large effusion", **settings):
        texts = {"a": "clear", "b": b, "c": "clear"}
        return cmn.ReportDataset(tmp_path, films, cmn.Tokenizer(WORDS), texts, **settings).fingerprint()

    others = [of(films=("b", "a")), of(films=("a", "c")), of(b="no effusion"), of(max_length=1),
              cmn.ReportDataset(tmp_path, ["a", "b"], cmn.Tokenizer(WORDS)).fingerprint()]  # fmt: skip
    assert of() == of() and len({of(), *others}) == 6


def test_films_are_on_the_models_grey_scale(tmp_path):
    film = np.random.default_rng(0).integers(40, 200, (30, 50), dtype=np.uint8)
    Image.fromarray(film).save(tmp_path / "a.png")
    plain, ranked = cmn.preprocess(film), cmn.preprocess(film, grey="rank")
    config = dict(visual_extractor="custom", d_vf=3, d_model=16, num_heads=2, topk=3, cmm_size=6, cmm_dim=16)
    models = [cmn.R2GenCMN(cmn.Tokenizer(WORDS), cmn.CMNConfig(**config, grey=g), Means()) for g in ("none", "rank")]
    assert [cmn.model_input(model, film).equal(plain[None]) for model in models] == [True, False]
    assert cmn.model_input(models[1], film).equal(ranked[None])
    data = [cmn.ReportDataset(tmp_path, ["a"], cmn.Tokenizer(WORDS), grey=grey) for grey in ("none", "rank")]
    assert data[0][0]["images"].equal(plain) and data[1][0]["images"].equal(ranked)
    assert data[0].fingerprint() != data[1].fingerprint()
    with pytest.raises(ValueError, match="grey must be one of none, rank, found 'bands'"):
        cmn.CMNConfig(grey="bands")


def test_a_part_of_the_data_set_is_chosen_by_ids_not_by_a_slice(tmp_path):
    """A slice would be one item whose name is a list, and a film of that name does not exist."""
    for name in ("a", "b"):
        Image.fromarray(np.full((30, 50), 60, np.uint8)).save(tmp_path / f"{name}.png")
    data = cmn.ReportDataset(tmp_path, ["a", "b"], cmn.Tokenizer(WORDS))
    for part in (slice(None), slice(1)):
        with pytest.raises(TypeError, match="make one of their ids"):
            data[part]
    assert [item["image_id"] for item in data] == ["a", "b"]
