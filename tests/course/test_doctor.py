"""`cliniqure doctor`: optional things with what each unlocks, and nothing about the person who asks."""

import getpass
import json
import platform
from pathlib import Path

import pytest

from cliniqure_utils.course import doctor


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A project folder with nothing in it, and caches of its own."""
    (tmp_path / "constraints.txt").write_text("numpy==0.1\npandas==0.1\n")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path


def test_every_optional_thing_is_named_with_its_use(empty):
    lines, _ = doctor.examine(empty)
    text = "\n".join(lines)
    for name, _, unlocks in doctor.OPTIONAL_FILES:
        assert f"no   {name}: {unlocks}" in text
    assert "no outputs/demo yet: cliniqure run makes it" in text
    assert lines[-1].startswith("For a bug report, copy everything above")
    for name, place, _ in doctor.OPTIONAL_FILES:
        path = place.replace("~/torch", "torch").replace("~/huggingface", "hf").replace("*", "x")
        (empty / path).parent.mkdir(parents=True, exist_ok=True)
        (empty / path).write_text("")
        assert f"here {name}: " in "\n".join(doctor.examine(empty)[0]), name


def test_versions_that_differ_are_listed(empty):
    lines = doctor.examine(empty)[0]
    assert "Packages  2 versions were tested together; 2 differ here" in lines
    assert any(line.strip().startswith("numpy ") and line.endswith("(tested with 0.1)") for line in lines)


def test_the_state_of_the_demo_run_is_told(empty):
    folder = empty / "outputs" / "demo"
    folder.mkdir(parents=True)
    notebooks = {"01_preprocess": {"status": "done"}, "02_detect": {"status": "failed"}}
    (folder / "run.json").write_text(json.dumps({"status": "failed", "seed": 7, "notebooks": notebooks}))
    assert "Run       outputs/demo: failed, 1 notebooks done, seed 7" in doctor.examine(empty)[0]
    (folder / "run.json").write_text("[")
    assert "Run       outputs/demo/run.json cannot be read" in doctor.examine(empty)[0]


def test_the_kernel_of_the_lab_is_looked_at(empty, monkeypatch):
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel

    def answer(spec):
        def get(self, name):
            if spec is None:
                raise NoSuchKernel(name)
            return spec

        monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", get)
        return next(line for line in doctor.examine(empty)[0] if line.startswith("Kernel"))

    assert "is this Python" in answer(KernelSpec(argv=["python", "-m", "ipykernel_launcher"]))
    other = answer(KernelSpec(argv=["/home/someone/bin/python"]))
    assert "is another Python" in other and "someone" not in other
    assert "has no kernel python3" in answer(None)


def test_nothing_about_the_person_is_printed(repository):
    text = "\n".join(doctor.examine(repository)[0])
    for private in (str(repository), str(Path.home()) + "/", platform.node()):
        assert not private or private not in text
    assert f"/{getpass.getuser()}/" not in text
    assert "CliniQure 0." in text
