"""The same numbers and words as the public code of R2GenCMN: what it gave for a toy model, once, see goldens/README.md.

A cut of its numbers lies in this folder; the whole set, with the trunk and more films, is used where it is found.
"""

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

from cliniqure_utils import cmn
from cliniqure_utils.cmn.layers import LayerNorm, sinusoids

SETS = {"cut": Path(__file__).parent / "goldens", "whole": Path(__file__).parents[3] / "shared/goldens/r2gencmn"}
DATASETS = {"mimic": "mimic_cxr", "iu": "iu_xray"}
SIZES = dict(
    d_vf=512, d_model=64, d_ff=64, num_heads=4, num_layers=2, topk=8, cmm_size=64, cmm_dim=64, max_length=30
)  # fmt: skip
GREEDY = {
    "greedy": {}, "greedy_noblock": {"block_trigrams": False}, "greedy_constraint": {"decoding_constraint": True},
    "greedy_rawlogits": {"log_softmax": False},
}  # fmt: skip
BEAM = {
    "beam3": {}, "beam2": {"beam_size": 2}, "beam5": {"beam_size": 5}, "beam3_all": {"n_reports": 3},
    "beam3_temp1p5": {"temperature": 1.5}, "beam3_constraint": {"decoding_constraint": True},
    "beam3_wu0p9": {"penalty": "wu_0.9"}, "beam3_avg": {"penalty": "avg_0"},
}  # fmt: skip


def unpack(path):
    return lzma.decompress(path.read_bytes())


@pytest.fixture(scope="module", params=SETS)
def goldens(request):
    if not SETS[request.param].is_dir():
        pytest.skip("the whole set of reference numbers is not here")
    return SETS[request.param]


@pytest.fixture(scope="module")
def models(goldens, tmp_path_factory):
    """Both models through the public door: name -> (model, images or None, features). Mimic's file is of the legacy
    kind. The iu file lacks the trunk, which is mimic's; the cut has features in the trunk's place."""
    folder = tmp_path_factory.mktemp("goldens")
    states = {}
    for name in DATASETS:
        (folder / name).write_bytes(unpack(goldens / f"{name}_state_dict.pth.xz"))
        states[name] = torch.load(folder / name, weights_only=True)
    whole = any(key.startswith("visual_extractor.") for key in states["mimic"]["state_dict"])
    shared = {k: v for k, v in states["mimic"]["state_dict"].items() if k.startswith("visual_extractor.")}
    for words_or_patches in ("src_embed.0", "tgt_embed.1"):
        shared[f"encoder_decoder.model.{words_or_patches}.pe"] = sinusoids(5000, SIZES["d_model"])[None]
    if whole:
        images = torch.stack([cmn.preprocess(image) for image in np.load(goldens / "images.npy")])
        seen = {"mimic": images, "iu": images[torch.from_numpy(np.load(goldens / "iu_pairs.npy"))]}
    else:
        patches = torch.from_numpy(np.load(goldens / "features.npz")["features"])
        seen = {"mimic": patches, "iu": patches.view(-1, 2 * 49, 512)}
    made = {}
    for name, dataset in DATASETS.items():
        if name == "iu" or not whole:  # mimic's whole file is read as the public code wrote it
            states[name]["state_dict"] |= shared
            torch.save(states[name], folder / name, _use_new_zipfile_serialization=name == "iu")
        trunk = "resnet18" if whole else torch.nn.Identity()
        model = cmn.load_r2gencmn(folder / name, goldens / "annotation.json", dataset, trunk, threshold=1, **SIZES)
        with torch.no_grad():
            features = model.patch_features(seen[name]) if whole else seen[name]
        made[name] = model, seen[name] if whole else None, features
    return made


@pytest.mark.parametrize("name", DATASETS)
def test_tokenizer(goldens, name):
    tokenizer = cmn.Tokenizer.from_file(goldens / "annotation.json", DATASETS[name], 1)
    vocabulary = json.loads((goldens / f"{name}_vocab.json").read_text())
    assert dict(zip(tokenizer.words, range(1, 999), strict=False)) == vocabulary
    golden = json.loads((goldens / "tokenizer.json").read_text())
    assert len(golden["items"]) == 55
    for item in golden["items"]:
        expected, ids = item[name], tokenizer.encode(item["raw"])
        assert tokenizer.clean(item["raw"]) == expected["cleaned"]
        assert ids == expected["ids"]
        assert tokenizer.decode(ids[1:]) == expected["decoded_after_bos"]
    for item in golden["decode"][name]:
        assert tokenizer.decode(item["ids"]) == item["text"]
    for threshold, vocabulary in golden["vocab_by_threshold"][name].items():
        rarer = cmn.Tokenizer.from_file(goldens / "annotation.json", DATASETS[name], int(threshold))
        assert {word: number for number, word in enumerate(rarer.words, start=1)} == vocabulary


@pytest.mark.parametrize("size", ["tiny", "full"])
def test_names_and_shapes(goldens, size, official_state):
    """Every key of the published state dicts, built without memory (on the meta device) and renamed to theirs."""
    plain, packed = goldens / "keys.txt", goldens / "keys.txt.xz"
    text = plain.read_text() if plain.is_file() else unpack(packed).decode()
    lines = next(block for block in text.split("## ")[1:] if block.startswith(size)).splitlines()[1:]
    expected = {tuple(line.split("\t")[:2]) for line in lines if line.strip()}
    settings = {**SIZES, "visual_extractor": "resnet18"} if size == "tiny" else {}
    words = [f"w{i:04d}" for i in range(125 if size == "tiny" else 4334)]
    with torch.device("meta"):
        model = cmn.R2GenCMN(cmn.Tokenizer([*words, "<unk>"]), cmn.CMNConfig(**settings))
        state = official_state(model)
    assert {(key, str(tuple(value.shape))) for key, value in state.items()} == expected


def test_layer_norm(goldens):
    golden = np.load(goldens / "layernorm.npz")
    norm = LayerNorm(16)
    with torch.no_grad():
        norm.scale.copy_(torch.from_numpy(golden["a_2"])), norm.shift.copy_(torch.from_numpy(golden["b_2"]))
        np.testing.assert_allclose(norm(torch.from_numpy(golden["x"])).numpy(), golden["y"], atol=1e-5)


def test_preprocessing(goldens):
    if not (goldens / "preprocess.npz").is_file():
        pytest.skip("not in the cut; test_patches holds the transform against torchvision's")
    golden = np.load(goldens / "preprocess.npz")
    out = cmn.preprocess(golden["raw"])
    np.testing.assert_allclose(out[:, :8, :8].numpy(), golden["out_corner"], atol=1e-6)
    np.testing.assert_allclose(out.double().sum((1, 2)).numpy(), golden["out_sum64"], atol=1e-2)
    pixels = torch.round((out[0] * 0.229 + 0.485) * 255).to(torch.uint8)
    np.testing.assert_array_equal(pixels.numpy(), golden["resized_u8"])


@pytest.mark.parametrize("name", DATASETS)
def test_encoder_and_teacher(goldens, models, name):
    model, images, features = models[name]
    golden = np.load(goldens / f"{name}_intermediate.npz")
    if images is not None:
        np.testing.assert_allclose(features[0].numpy(), golden["att_feats_0"], rtol=1e-3, atol=1e-3)
        views = features.unflatten(1, (-1, 49)).mean(2).flatten(1)
        np.testing.assert_allclose(views.numpy(), golden["fc_feats"], rtol=1e-3, atol=1e-3)
    n = len(golden["encoder_memory"])
    teacher = np.load(goldens / f"{name}_teacher.npz")
    ids = torch.from_numpy(teacher["ids"])
    seen = {"features": features[: len(ids)]} if images is None else {"images": images}
    with torch.no_grad():
        embedded, encoded = model.embed_patches(features[:n]), model.encode(features[:n])
        logprobs = model(ids=ids, **seen)["logprobs"]
    np.testing.assert_allclose(embedded.numpy(), golden["embedded_plus_cmn"], atol=1e-4)
    np.testing.assert_allclose(encoded.numpy(), golden["encoder_memory"], atol=1e-4)
    np.testing.assert_allclose(logprobs.numpy(), teacher["logprobs"], atol=1e-4)


@pytest.mark.parametrize("config", [*GREEDY, *BEAM])
@pytest.mark.parametrize("name", DATASETS)
def test_decoding(goldens, models, name, config):
    model, images, features = models[name]
    golden = np.load(goldens / f"{name}_decode.npz")
    options = {"beam_size": 1} | GREEDY[config] if config in GREEDY else dict(BEAM[config])
    found = model.decode(features=features, return_logprobs=True, **options)
    ids = found.ids.flatten(0, 1)
    np.testing.assert_array_equal(ids.numpy(), golden[f"{config}_ids"])
    texts = json.loads((goldens / f"{name}_texts.json").read_text())[config]
    assert [model.tokenizer.decode(row) for row in ids] == texts
    if f"{config}_logprobs" in golden:
        wanted = golden[f"{config}_logprobs"]
        np.testing.assert_allclose(found.logprobs[: len(wanted)].numpy(), wanted, atol=1e-4)
    if config in BEAM:
        full = model.decode(features=features, early_stop=False, **options)
        assert full.ids.tolist() == found.ids.tolist()
        np.testing.assert_allclose(full.scores.numpy(), golden[f"{config}_p"], atol=1e-4)
    if images is not None and config in ("greedy", "beam3"):  # from pixels, one image alone, and with the defaults
        beam_size = 1 if config == "greedy" else 3
        np.testing.assert_array_equal(model.generate(images[:1], beam_size).numpy(), golden[f"{config}_ids"][:1])
        if config == "beam3":
            np.testing.assert_array_equal(model.generate(images).numpy(), golden["beam3_ids"])
