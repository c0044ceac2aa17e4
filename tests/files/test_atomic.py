"""Names and files as Windows and macOS have them, whatever this system is."""

import os
import shutil
from pathlib import Path

import pytest

from cellwright.core.errors import WriteError
from cellwright.files import atomic
from cellwright.files.atomic import atomic_folder, move, plain_name, remove_folder, write_text
from cellwright.files.folders.written import checksums_of, facts_of


def held(winerror=32):
    """The error of Windows where a program has a file open."""
    error = PermissionError(13, "The process cannot access the file")
    error.winerror = winerror
    return error


@pytest.fixture
def scanned(monkeypatch):
    """Function (times) -> has files be held so often before they can be renamed."""
    monkeypatch.setattr(atomic, "WAITS_S", (0.0, 0.0))
    rename = os.replace

    def begin(times):
        errors = [held(winerror) for winerror in (5, 32, 33, 5)[:times]]

        def replace(source, target):
            if errors:
                raise errors.pop()
            rename(source, target)

        monkeypatch.setattr(os, "replace", replace)

    return begin


def test_what_a_virus_scanner_looks_at_is_written_once_it_has(tmp_path, scanned):
    scanned(2)
    write_text(tmp_path / "a.csv", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_table_that_is_open_in_excel_stays_and_is_told(tmp_path, scanned):
    write_text(tmp_path / "a.csv", "old")
    scanned(4)
    with pytest.raises(WriteError, match=r"a\.csv; it is open in another program"):
        write_text(tmp_path / "a.csv", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_an_error_that_time_does_not_mend_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.time, "sleep", lambda _: pytest.fail("waited"))
    with pytest.raises(FileNotFoundError):
        move(tmp_path / "nowhere", tmp_path / "a")


def test_a_folder_is_gone_as_a_whole_though_something_in_it_is_held(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # not all of it could be removed
        remove_folder(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    (tmp_path / "c").mkdir()
    remove_folder(tmp_path / "c")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        *(("con", "con_"), ("Nul.ch1", "Nul_.ch1"), ("COM1 .a", "COM1_ .a"), ("lpt9", "lpt9_")),
        *(("console", "console"), ("a.con", "a.con"), ("com", "com")),
        (f"{'x' * 149}. y", "x" * 149),  # Windows takes no name that ends with a dot
    ],
)
def test_no_name_is_one_that_windows_keeps_for_itself(name, plain):
    assert plain_name(name) == plain


@pytest.mark.parametrize("name", [".DS_Store", "._0", "Thumbs.db", "desktop.ini"])
def test_what_looking_into_a_folder_leaves_there_changes_nothing(tmp_path, name):
    folder = tmp_path / "a.labels.zarr"
    write_text(folder / "0" / ".zarray", "{}")
    before = facts_of(folder), checksums_of([folder], tmp_path)
    (folder / "0" / name).write_text("of the system")
    os.utime(folder / "0" / name, (4e9, 4e9))
    assert (facts_of(folder), checksums_of([folder], tmp_path)) == before


def test_a_new_folder_that_somebody_looked_into_is_new(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".DS_Store").touch()
    with atomic_folder(tmp_path / "new") as part:
        (part / "a").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]


def test_zarr_folders_have_their_own_name_on_windows():
    from pathlib import PureWindowsPath

    from cellwright.files.zarr import last_part

    assert last_part(PureWindowsPath(r"C:\my data\a.zarr")) == "a.zarr"
    assert last_part(Path("/my data/a.zarr/")) == "a.zarr"
    assert last_part("https://host/b.zarr/") == "b.zarr"


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_what_has_no_name_is_not_written(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WriteError, match="Name it in there"):
        write_text(Path(name), "settings")
    with pytest.raises(WriteError), atomic_folder(Path(name)):
        pass
    assert not list(tmp_path.iterdir())
