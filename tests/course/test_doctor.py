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


@pytest.mark.parametrize(
    "name, version, words",
    [
        ("pydicom", "2.4.4", "pydicom is 2.4.4; CliniQure needs pydicom >=3"),
        ("transformers", "4.30.0", "transformers is 4.30.0; CliniQure needs transformers >=5"),
        ("pandas", "2.3.3", "pandas is 2.3.3; CliniQure needs pandas >=3"),
        ("papermill", "2.6.9", "papermill is 2.6.9; CliniQure needs papermill >=2.7"),
        ("torch", "2.0.1", "torch is 2.0.1; torchvision needs torch"),
    ],
)
def test_a_version_that_cannot_work_is_a_problem(repository, monkeypatch, name, version, words):
    plain = doctor.importlib.metadata.version
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda asked: version if asked == name else plain(asked))
    assert any(line.startswith(words) for line in doctor.misfits()), doctor.misfits()
    lines, healthy = doctor.examine(repository)
    assert not healthy and any(line.startswith(f"PROBLEM   {words}") for line in lines)


def test_a_torchvision_of_another_torch_is_a_problem(repository, monkeypatch):
    """torchvision 0.15 beside torch 2.14: by what it asks for, and where its operators are missing."""
    plain = doctor.importlib.metadata.requires
    old = ["numpy", "requests", "torch (==2.0.0)", "pillow !=8.3.*,>=5.3.0"]
    monkeypatch.setattr(
        doctor.importlib.metadata, "requires", lambda asked: old if asked == "torchvision" else plain(asked)
    )
    assert len(doctor.misfits()) == 1 and "; torchvision needs torch ==2.0.0: pip install" in doctor.misfits()[0]
    monkeypatch.setattr("torchvision.ops.nms", lambda *_: (_ for _ in ()).throw(RuntimeError("no operator nms\nmore")))
    lines, healthy = doctor.examine(repository)
    assert not healthy and "PROBLEM   torch and torchvision do not work: RuntimeError: no operator nms" in lines


def test_what_is_installed_here_fits():
    assert doctor.misfits() == []


@pytest.mark.parametrize(
    "version, asked, held",
    [
        ("2.14.1+cpu", "==2.14.1", True), ("2.14.1", "==2.14", False), ("2.14.0", "==2.14", True),
        ("2.14.1", "==2.14.*", True), ("3.0.2", ">=3", True), ("2.99", ">=3", False), ("3.13.1", ">=3.11,<3.14", True),
        ("3.14.0", ">=3.11,<3.14", False), ("3.10.9", ">=3.11,<3.14", False), ("5.0.0rc1", ">=5", True),
        ("1", "", True),
        ("2", ">2", False), ("2.0.1", "<=2", False), ("10.0", ">=9.5", True),
    ],
)  # fmt: skip
def test_bounds_of_versions(version, asked, held):
    assert doctor.fits(version, asked) is held
