"""One film's fault stays its own: the others get reports, index and rejected table are written, the code is right."""

import io
import os
import sys

import pandas as pd
import pytest
from PIL import Image

from cliniqure_utils import cli
from cliniqure_utils.predict import command
from cliniqure_utils.predict import films as films_module

ODD_NAME = "ng\u1ef1c.png"  # no character of cp1252


@pytest.fixture
def call(run_dir, tmp_path):
    """Function: inputs -> exit code; the reports lie in tmp_path / "out"."""

    def call(*inputs) -> int:
        arguments = ["predict", *map(str, inputs), "--run-dir", str(run_dir), "--out", str(tmp_path / "out")]
        return cli.main([*arguments, "--no-llm"])

    return call


@pytest.fixture
def folder(tmp_path, grey):
    (tmp_path / "in").mkdir()
    for name in ("a.png", ODD_NAME, "z.png"):
        Image.fromarray(grey).save(tmp_path / "in" / name)
    return tmp_path / "in"


def reasons(out) -> dict[str, str]:
    assert (out / "index.html").is_file()
    return pd.read_csv(out / "rejected.csv", keep_default_na=False).set_index("source").reason.to_dict()


def pages(out) -> set[str]:
    return {path.name.removesuffix("_report.html") for path in out.glob("*_report.html")}


def test_what_is_no_film_takes_no_film_with_it(call, folder, tmp_path, grey):
    (folder / "loop").symlink_to("loop")
    Image.fromarray(grey[:8, :8]).save(folder / "tiny.png")
    Image.fromarray(grey).save(os.fsencode(folder) + b"/byte\xff\x1b.png", format="PNG")
    (folder / "line\nbreak.dcm").write_bytes(b"nothing")
    assert call(folder) == 1
    assert reasons(tmp_path / "out") == {
        "loop": "loop: a link that leads to no file",
        "tiny.png": "tiny.png: 8 x 8 pixels; expected a film of at least 32",
        "line\\nbreak.dcm": "line\\nbreak.dcm: neither DICOM nor PNG nor JPEG by its content",
    }
    assert pages(tmp_path / "out") == {"a", "ng\u1ef1c", "z", "film_0002"}
    assert "byte\\udcff\\x1b.png" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_an_unforeseen_error_is_one_film_s(call, folder, tmp_path, monkeypatch):
    asked, build = films_module.has_few_greys, command.build_report

    def fail_while_reading(path, shown):
        if path.name == "a.png":
            raise MemoryError("no room\nfor it")
        return asked(path, shown)

    def fail_while_writing(film, *rest):
        if film["source"] == ODD_NAME:
            raise ZeroDivisionError("by nothing")
        return build(film, *rest)

    monkeypatch.setattr(films_module, "has_few_greys", fail_while_reading)
    monkeypatch.setattr(command, "build_report", fail_while_writing)
    assert call(folder) == 1
    assert reasons(tmp_path / "out") == {
        "a.png": "a.png: cannot be read (MemoryError: no room for it)",
        ODD_NAME: f"{ODD_NAME}: its report cannot be written (ZeroDivisionError: by nothing)",
    }
    assert pages(tmp_path / "out") == {"z"}


def test_a_call_that_ends_early_leaves_index_and_rejected_table(call, folder, tmp_path, monkeypatch, capsys):
    write = command.write_film
    (folder / "tiny.dcm").write_bytes(b"nothing")

    def full_disk(report, film, name, out_dir):
        if name == "z":
            raise OSError(28, "No space left on device", str(out_dir / "z_overlay.png"))
        return write(report, film, name, out_dir)

    monkeypatch.setattr(command, "write_film", full_disk)
    assert call(folder) == 2
    said = capsys.readouterr().err
    assert said == f"cliniqure: {tmp_path / 'out' / 'z_overlay.png'} cannot be used (No space left on device)\n"
    assert list(reasons(tmp_path / "out")) == ["tiny.dcm"]
    assert "a_report.html" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_every_film_read_is_0_and_nothing_but_what_cannot_be_opened_is_1(call, folder, tmp_path):
    assert call(folder / "a.png") == 0 and reasons(tmp_path / "out") == {}
    (folder / "loop.dcm").symlink_to("loop.dcm")
    assert call(folder / "loop.dcm") == 1 and list(reasons(tmp_path / "out")) == ["loop.dcm"]


def test_an_output_folder_that_leads_nowhere_is_one_line(run_dir, folder, tmp_path, capsys):
    (tmp_path / "loop").symlink_to("loop")
    command = ["predict", str(folder), "--run-dir", str(run_dir), "--no-llm", "--out", str(tmp_path / "loop")]
    assert cli.main(command) == 2
    assert capsys.readouterr().err == f"cliniqure: {tmp_path / 'loop'} cannot be used (File exists)\n"


def test_a_name_that_the_terminal_cannot_print_is_printed_as_escapes(call, folder, tmp_path, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert call(folder / ODD_NAME) == 0
    assert terminal.buffer.getvalue().startswith(b"ng\\u1ef1c.png: ")


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_closed_pipe_ends_nothing(call, folder, tmp_path, monkeypatch, name):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, name, pipe)
        if name == "stderr":
            monkeypatch.setattr(command, "write_index", lambda *given: print("lost", file=sys.stderr, flush=True))
        assert call(folder / "a.png", folder / "z.png") == 0
    assert pages(tmp_path / "out") == {"a", "z"}
