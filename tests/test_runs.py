"""The run folder's files: whole or not there, whatever stops the process that writes them."""

import os
import signal
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest

from cliniqure_utils.runs import atomic_path, clear_unfinished, filling, read_table, write_table


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
