"""``fxkernels.lock``: what is written is read again, and what is damaged is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from locks import COMMIT, LOCK, OTHER, ROTARY, locked
from refusals import refusal

from fxkernels.hub import Lock, read_lock, write_lock
from fxkernels.hub.lock_file import lock_text


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "fxkernels.lock"
    write_lock(LOCK, path)
    lock = read_lock(path)
    assert lock.repositories == LOCK.repositories
    assert lock.requires == LOCK.requires
    assert lock.where == str(path)


def test_the_text_is_sorted_with_one_line_per_file() -> None:
    text = lock_text(LOCK)
    shuffled = Lock("elsewhere", (ROTARY, locked("acme/norms", init_py=b"", layers_py=b"norms")), LOCK.requires)
    assert lock_text(shuffled) == text
    assert json.loads(text) == {
        "fxkernels-lock": 1,
        "requires": {"acme/norms": {"version": 1}},
        "repositories": [
            {
                "repository": "acme/norms",
                "version": 1,
                "commit": COMMIT,
                "variants": {"torch-universal": {"init.py": sha256(b""), "layers.py": sha256(b"norms")}},
            },
            {
                "repository": "acme/rotary",
                "revision": "main",
                "commit": OTHER,
                "variants": {"torch-universal": {"layers.py": sha256(b"rotary")}},
            },
        ],
    }
    assert f'        "layers.py": "{sha256(b"norms")}"\n' in text
    assert text.endswith("}\n")


def test_another_file_of_a_build_is_another_line_and_nothing_else(tmp_path: Path) -> None:
    more = Lock("", (locked("acme/norms", init_py=b"", layers_py=b"norms", a_py=b"new"), ROTARY), LOCK.requires)
    before, after = lock_text(LOCK).splitlines(), lock_text(more).splitlines()
    assert [line for line in after if line not in before] == [f'          "a.py": "{sha256(b"new")}",']


def written(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = json.loads(lock_text(LOCK))
    change(content)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.update({"fxkernels-lock": 2}),
            "key 'fxkernels-lock' is 2, it must be a format that this version of fxkernels can read",
        ),
        (lambda c: c.pop("fxkernels-lock"), "is no lock file: it lacks the key 'fxkernels-lock'"),
        (lambda c: c.pop("requires"), "lacks the key 'requires'"),
        (lambda c: c.pop("repositories"), "lacks the key 'repositories'"),
        (lambda c: c.update(signature="x"), "key 'signature' is not known; known are: fxkernels-lock, repositories, requires"),
        (lambda c: c["repositories"][1].pop("commit"), "lacks the key 'repositories[1].commit'"),
        (lambda c: c["repositories"][1].update(commit="main"), "key 'repositories[1].commit' is 'main', it must be a full commit"),
        (lambda c: c["repositories"][0].update(commit=COMMIT.upper()), "it must be a full commit, 40 hexadecimal digits"),
        (lambda c: c["repositories"][0].update(repository="../x"), "key 'repositories[0]' cannot be used: '../x' is no repository"),
        (lambda c: c["repositories"][0].update(revision="main"), "version 1 and revision 'main'; give one of the two"),
        (lambda c: c["repositories"][0].pop("version"), "neither a version nor a revision"),
        (lambda c: c["repositories"][0].update(version="1"), "key 'repositories[0].version' is '1', it must be an integer"),
        (lambda c: c["repositories"][0].update(files={}), "key 'repositories[0].files' is not known"),
        (lambda c: c["repositories"].append(c["repositories"][0]), "key 'repositories[2]' is acme/norms@v1, which is there already"),
        (lambda c: c["repositories"].pop(0), "key 'requires.acme/norms' is acme/norms@v1, which 'repositories' lacks"),
        (lambda c: c["repositories"][0].update(variants=[]), "key 'repositories[0].variants' is [], it must be an object"),
        (lambda c: c["repositories"][0]["variants"].update({"../x": {}}), "leaves its directory"),
        (lambda c: c["repositories"][0]["variants"].update({"a/b": {}}), "is no name of a build variant"),
        (lambda c: c["repositories"][0]["variants"]["torch-universal"].update({"/etc/x.py": "0" * 64}), "'/etc/x.py' is absolute"),
        (lambda c: c["repositories"][0]["variants"]["torch-universal"].update({"layers.py": "00"}), "it must be the file's SHA-256"),
        (lambda c: c["repositories"][0]["variants"]["torch-universal"].update({"layers.py": None}), "it must be the file's SHA-256"),
    ],
)
def test_a_damaged_lock_is_an_error_that_names_file_and_key(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = written(tmp_path / "fxkernels.lock", change)
    error = refusal(lambda: read_lock(path), "load_error")
    assert str(path) in error
    assert message in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as JSON"),
        (b"<<<<<<< HEAD\n{}", "cannot be read as JSON"),
        (b'{"fxkernels-lock": 1, "fxkernels-lock": 1}', "is in one object twice"),
        (b"1", "it must hold an object"),
        (b'[], "more": []', "something follows the list"),
        (b'[{"repo_id": "a/b", "repo_id": "a/b"}]', "is in one object twice"),
    ],
)
def test_a_file_that_is_no_lock_is_an_error_that_names_it(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "fxkernels.lock"
    path.write_bytes(content)
    error = refusal(lambda: read_lock(path), "load_error")
    assert str(path) in error
    assert message in error


def test_a_lock_file_that_does_not_exist_is_an_error_that_says_how_to_get_one(tmp_path: Path) -> None:
    assert "there is no lock file" in refusal(lambda: read_lock(tmp_path / "fxkernels.lock"), "load_error")
    assert "cannot be read" in refusal(lambda: read_lock(tmp_path), "load_error")
