"""Reading ``metadata.json``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fxkernels.errors import RepositoryError
from fxkernels.hub.metadata import read_metadata

COMPLETE = {
    "name": "norms",
    "id": "norms_cpu_9a31f0c",
    "version": 3,
    "license": "apache-2.0",
    "python-depends": ["einops"],
    "backend": {"type": "cuda", "archs": ["9.0a", "10.0+PTX"]},
}


def written(directory: Path, **changes: Any) -> Path:
    (directory / "metadata.json").write_text(json.dumps(COMPLETE | changes))
    return directory


def refusal(directory: Path) -> str:
    with pytest.raises(RepositoryError) as caught:
        read_metadata(directory)
    assert caught.value.code == "load_error"
    return str(caught.value)


def test_complete_metadata_is_read(tmp_path):
    metadata = read_metadata(written(tmp_path))
    assert (metadata.name, metadata.id, metadata.version, metadata.license) == ("norms", "norms_cpu_9a31f0c", 3, "apache-2.0")
    assert (metadata.python_depends, metadata.backend, metadata.archs) == (("einops",), "cuda", ("9.0a", "10.0+PTX"))


def test_unknown_keys_are_kept(tmp_path):
    metadata = read_metadata(written(tmp_path, upstream="https://example.org", **{"a-later-key": [1]}))
    assert metadata.other == {"upstream": "https://example.org", "a-later-key": [1]}


def test_metadata_can_be_hashed(tmp_path):
    assert hash(read_metadata(written(tmp_path, upstream=[]))) == hash(read_metadata(tmp_path))


@pytest.mark.parametrize("key", list(COMPLETE))
def test_missing_required_key_is_named_with_its_file(tmp_path, key):
    path = tmp_path / "metadata.json"
    path.write_text(json.dumps({name: value for name, value in COMPLETE.items() if name != key}))
    message = refusal(tmp_path)
    assert str(path) in message
    assert repr(key) in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", 1),
        ("name", ""),
        ("version", "1"),
        ("version", True),
        ("license", None),
        ("python-depends", "einops"),
        ("python-depends", [1]),
        ("backend", "cpu"),
        ("id", 7),
    ],
)
def test_value_of_the_wrong_type_is_named_with_its_key(tmp_path, key, value):
    message = refusal(written(tmp_path, **{key: value}))
    assert f"{key!r} is {value!r}" in message


@pytest.mark.parametrize("backend", [{}, {"type": 1}, {"type": "cuda", "archs": "9.0"}])
def test_backend_of_the_wrong_shape_is_named_with_its_key(tmp_path, backend):
    assert re.search(r"'backend\.(type|archs)'", refusal(written(tmp_path, backend=backend)))


@pytest.mark.parametrize("name", ["a-dash", "a.dot", "1st", "class", "a/b", "../x"])
def test_id_that_is_no_identifier_is_refused(tmp_path, name):
    assert "Python identifier" in refusal(written(tmp_path, id=name))


@pytest.mark.parametrize("name", ["colorsys", "json", "sys"])
def test_id_of_a_standard_library_module_is_refused(tmp_path, name):
    assert "standard library" in refusal(written(tmp_path, id=name))


def test_missing_file_is_named_with_the_keys_it_needs(tmp_path):
    message = refusal(tmp_path)
    assert f"{tmp_path / 'metadata.json'} does not exist" in message
    assert "python-depends" in message


def test_older_layout_is_recognised(tmp_path):
    (tmp_path / "norms").mkdir()
    (tmp_path / "norms" / "__init__.py").touch()
    assert "older layout (<variant>/norms/__init__.py)" in refusal(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_file_that_is_no_json_object_is_refused(tmp_path, content):
    path = tmp_path / "metadata.json"
    path.write_text(content)
    assert str(path) in refusal(tmp_path)
