"""The directory for records, and records that processes share."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import fxkernels.cache_directory as cache_module
from fxkernels.cache_directory import cache_directory, read_record, write_atomically, write_record

# By its path: importing the package loads torch, which takes seconds.
WRITER = f"""
import runpy, sys
from pathlib import Path
module = runpy.run_path({cache_module.__file__!r})
read_record, write_record = module["read_record"], module["write_record"]
path = Path(sys.argv[1])
for turn in range(200):
    write_record(path, {{"writer": sys.argv[2], "filling": sys.argv[2] * 5000}})
    record = read_record(path)
    assert record is not None and record["filling"] == record["writer"] * 5000, record
"""


def test_the_directory_is_in_the_hugging_face_home_unless_the_environment_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("FXKERNELS_CACHE", raising=False)
    assert cache_directory() == tmp_path / "hf" / "fxkernels"
    monkeypatch.setenv("FXKERNELS_CACHE", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"
    monkeypatch.setenv("FXKERNELS_CACHE", "~/own")
    assert cache_directory() == Path.home() / "own"


def test_a_record_is_read_as_it_was_written_and_its_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "record.json"
    assert read_record(path) is None
    write_record(path, {"b": 1, "a": [True, "ü"]})
    assert read_record(path) == {"a": [True, "ü"], "b": 1}
    assert [entry.name for entry in path.parent.iterdir()] == ["record.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'"text"', b"[" * 100_000])
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    assert read_record(path) is None
    assert read_record(tmp_path) is None


def test_files_can_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", "text\n")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "file", "new \ud800")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("file", "old")]


def test_processes_that_write_one_record_at_once_never_read_half_of_one(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], stderr=subprocess.PIPE, text=True) for name in "abcd"]
    assert [writer.communicate()[1] for writer in writers] == [""] * 4
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]
