"""The run folder's files: whole or not there, whatever stops the process that writes them."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import pandas as pd
import pytest

from cliniqure_utils.runs import atomic_path, clear_unfinished, filling, lock, read_jsonl, read_table, write_table


def test_ids_are_text_and_only_an_empty_field_is_missing(tmp_path):
    written = pd.DataFrame(
        {
            "image_id": ["012", "NA", "null"],
            "same_pixels_as": ["", "012", "012"],
            "duplicate_of": ["", "", "007"],
            "symptoms": ["nan", "None", ""],
            "age_years": [40.5, None, 60.0],
        }
    )
    write_table(tmp_path / "index.csv", written)
    table = read_table(tmp_path / "index.csv")
    pd.testing.assert_frame_equal(table, written.replace("", None), check_dtype=False)
    write_table(tmp_path / "empty.csv", written[:0])
    assert list(read_table(tmp_path / "empty.csv")) == list(written)


def test_ids_in_json_lines_are_text(tmp_path):
    path = tmp_path / "reports.jsonl"
    path.write_text('{"image_id": 7, "n_words": 3}\n{"image_id": "007", "rad_id": 1}\n{"image_id": null}\n')
    assert read_jsonl(path) == [{"image_id": "7", "n_words": 3}, {"image_id": "007", "rad_id": "1"}, {"image_id": None}]


def test_a_file_or_folder_appears_whole_or_not_at_all(tmp_path):
    with atomic_path(tmp_path / "made") as temporary:
        temporary.mkdir()
        (temporary / "weights").write_text("all of them")
        assert not (tmp_path / "made").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "file.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "folder") as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner" / "weights").write_text("half of them")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_only_half_written_things_are_cleared(tmp_path):
    for name in (".0123abcd.model/weights", "sub/.0123abcd.x.png", ".hidden", ".lock", "kept.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    clear_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".hidden", ".lock", "kept.png", "sub"]


def test_a_folder_is_filled_by_one_at_a_time(tmp_path):
    seen = []

    def second():
        with filling(tmp_path):
            seen.append((tmp_path / "model").is_dir())

    with filling(tmp_path):
        waiting = threading.Thread(target=second)
        waiting.start()
        with atomic_path(tmp_path / "model") as temporary:
            temporary.mkdir()
            time.sleep(0.3)
            assert temporary.is_dir() and seen == []
    waiting.join(timeout=20)
    assert seen == [True]


KILLED = """
import sys, time
from cliniqure_utils.runs import atomic_path, filling
with filling(sys.argv[1]), atomic_path(sys.argv[1] + "/model") as temporary:
    temporary.mkdir()
    (temporary / "weights").write_text("half of them")
    print("now", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_cleared_by_the_next_that_fills_the_folder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (left,) = tmp_path.glob(".*.model")
    with filling(tmp_path):
        assert not left.exists()


def test_a_full_disk_names_the_file_and_not_the_hidden_one_beside_it(tmp_path):
    for name in ("table.csv", "folder"):
        with pytest.raises(OSError) as failed, atomic_path(tmp_path / name) as temporary:
            raise OSError(28, "No space left on device", str(temporary / "part" if name == "folder" else temporary))
        assert failed.value.filename == str(tmp_path / name)
    with pytest.raises(OSError) as failed, atomic_path(tmp_path / "text") as temporary:
        raise OSError(28, "No space left on device")  # a write, which knows no name
    assert failed.value.filename == str(tmp_path / "text")
    with pytest.raises(FileNotFoundError) as failed, atomic_path(tmp_path / "text") as temporary:
        open(tmp_path / "gone")  # noqa: SIM115 - it is not there
    assert failed.value.filename == str(tmp_path / "gone"), "another file keeps its name"
    with pytest.raises(OSError) as failed, atomic_path(tmp_path) as temporary:
        temporary.write_text("a file cannot take the place of a folder")
    assert failed.value.filename == str(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_a_line_and_no_end(tmp_path, monkeypatch, capsys, number):
    """NFS without its lock service. Of ENOSYS filelock makes a lock of its own."""
    import fcntl

    def no_locks(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with lock(tmp_path / ".lock"):
            (tmp_path / "work").touch()
        with filling(tmp_path / "models"):
            (tmp_path / "models" / "a").touch()
    assert ("knows no locks" in capsys.readouterr().out) == (number != errno.ENOSYS)


def test_a_lock_that_cannot_be_made_for_another_reason_is_an_error(tmp_path, monkeypatch):
    import fcntl

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output error"), lock(tmp_path / ".lock"):
        pass
