"""Which files are films: what is found in folders, and what cannot be opened."""

import os
import shutil

import pytest
from PIL import Image

from cliniqure_utils.predict.folders import find_films
from cliniqure_utils.project import CannotStart


@pytest.fixture
def folder(tmp_path, grey):
    Image.fromarray(grey).save(tmp_path / "film.png")
    return tmp_path


def found(*inputs, out_dir=None):
    paths, unread, passed = find_films(inputs, out_dir)
    return [path.name for path in paths], {path.name: reason for path, reason in unread}, passed


def test_films_are_found_once_and_results_are_left_out(films):
    names, unread, passed = found(films, films / "one.dcm", films / "sub")
    assert len(names) == len(set(names)) == 5 and passed == 1 and not unread
    assert len(found(films, out_dir=films / "sub")[0]) == 4
    assert found(films / "sub", out_dir=films / "sub") == ([], {}, 0)


def test_what_cannot_be_opened_is_told_and_the_rest_found(folder):
    (folder / "loop").symlink_to("loop")
    (folder / "gone.dcm").symlink_to("nowhere.dcm")
    (folder / "gone.txt").symlink_to("nowhere.txt")
    os.mkfifo(folder / "pipe.png")
    (folder / "elsewhere").symlink_to(folder.parent)
    lost = "a link that leads to no file"
    unread = {
        "loop": lost, "gone.dcm": lost, "pipe.png": "neither a file nor a folder",
        "elsewhere": "a link to a folder, which is not followed; give the folder itself",
    }  # fmt: skip
    assert found(folder) == (["film.png"], unread, 1)
    # As a shell gives them for folder/*; the link to a folder is then the folder.
    given = [folder / name for name in ("film.png", "loop", "gone.dcm", "pipe.png")]
    del unread["elsewhere"]
    assert found(*given) == (["film.png"], unread, 0)


def test_closed_files_and_folders_are_told(folder, grey, monkeypatch):
    """Refused by hand, since root may open anything."""
    (folder / "closed").mkdir()
    (folder / "closed" / "more.png").write_bytes(b"")
    for name in ("IM0001", "1.2.840.113619", "letter.txt"):
        (folder / name).write_bytes(b"")
    scandir, real_open = os.scandir, open

    def refuse(path, real):
        if os.path.basename(path) in ("closed", "IM0001", "1.2.840.113619", "letter.txt"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", lambda path: refuse(path, scandir))
    monkeypatch.setattr("builtins.open", lambda path, *rest: refuse(path, lambda path: real_open(path, *rest)))
    names, unread, passed = found(folder)
    assert (names, passed) == (["film.png"], 1)
    closed = "cannot be opened (Permission denied)"
    assert unread == {"closed": f"a folder that {closed}", "IM0001": closed, "1.2.840.113619": closed}


def test_a_file_is_dicom_by_its_first_bytes_whatever_its_ending(folder, grey, write_dicom):
    for name in ("IM0001", "1.2.840.113619.2.5", "film.dcm_old"):
        shutil.copy(write_dicom(folder / "x.dcm", grey), folder / name)
    (folder / "x.dcm").unlink()
    (folder / ".DS_Store").write_bytes(b"")
    (folder / "DICM.txt").write_bytes(b"DICM")
    names, unread, passed = found(folder)
    assert names == ["1.2.840.113619.2.5", "IM0001", "film.dcm_old", "film.png"] and not unread and passed == 2


def test_what_is_not_there_is_refused(folder):
    for missing in (folder / "nowhere", folder / "film.png" / "below"):
        with pytest.raises(CannotStart, match="there is no file or folder"):
            find_films([folder / "film.png", missing])
