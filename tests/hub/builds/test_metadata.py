"""Reading ``metadata.json``."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fxkernels.errors import RepositoryError
from fxkernels.hub import RepositoryRequest
from fxkernels.hub.builds.metadata import package_directory, parse_metadata, read_metadata
from fxkernels.hub.strict_json import SIZE_LIMIT

COMPLETE = {
    "name": "norms",
    "id": "norms_cpu_9a31f0c",
    "version": 3,
    "license": "apache-2.0",
    "python-depends": ["einops"],
    "backend": {"type": "cuda", "archs": ["9.0a", "10.0+PTX"]},
}
SHA256 = base64.b64encode(hashlib.sha256(b"").digest()).decode()


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


def test_what_is_optional_is_absent_or_null(tmp_path):
    optional = ("upstream", "source", "kernels-minver", "kernel-depends", "digest", "provenance")
    absent = read_metadata(written(tmp_path))
    assert (absent.upstream, absent.source, absent.minver, absent.kernel_depends, absent.digest, absent.provenance) == (
        None,
        None,
        None,
        (),
        None,
        None,
    )
    assert read_metadata(written(tmp_path, **dict.fromkeys(optional))) == absent


def test_optional_keys_are_read(tmp_path):
    provenance = {"kernel-builder": {"version": "0.17.2"}}
    metadata = read_metadata(
        written(
            tmp_path,
            upstream="https://example.org/norms",
            source="https://example.org/norms-kernel",
            provenance=provenance,
            **{"kernels-minver": "0.17.0"},
        )
    )
    assert (metadata.upstream, metadata.source) == ("https://example.org/norms", "https://example.org/norms-kernel")
    assert metadata.minver == "0.17.0"
    assert metadata.provenance == provenance
    assert metadata.other == {}


def test_unknown_keys_are_kept(tmp_path):
    metadata = read_metadata(written(tmp_path, **{"a-later-key": [1]}))
    assert metadata.other == {"a-later-key": [1]}


def test_metadata_can_be_hashed(tmp_path):
    changes = {"later": [], "digest": {"algorithm": "sha256", "files": {"__init__.py": SHA256}}}
    assert hash(read_metadata(written(tmp_path, **changes))) == hash(read_metadata(tmp_path))


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
        ("name", "norms\x1b[2J"),
        ("version", "1"),
        ("version", True),
        ("version", -1),
        ("version", 1.0),
        ("license", None),
        ("python-depends", "einops"),
        ("python-depends", [1]),
        ("python-depends", [""]),
        ("backend", "cpu"),
        ("id", 7),
        ("upstream", 1),
        ("source", ["https://example.org"]),
        ("kernels-minver", 0.17),
        ("kernels-minver", "0.17rc1"),
        ("kernels-minver", "newest"),
        ("kernel-depends", {"repo-id": "acme/norms"}),
        ("kernel-depends", ["acme/norms"]),
        ("digest", "sha256"),
        ("provenance", "a mystery"),
    ],
)
def test_value_of_the_wrong_type_is_named_with_its_key(tmp_path, key, value):
    message = refusal(written(tmp_path, **{key: value}))
    assert f"{tmp_path / 'metadata.json'}: key {key!r} is {value!r}" in message


@pytest.mark.parametrize("backend", [{}, {"type": 1}, {"type": "cuda", "archs": "9.0"}])
def test_backend_of_the_wrong_shape_is_named_with_its_key(tmp_path, backend):
    assert re.search(r"'backend\.(type|archs)'", refusal(written(tmp_path, backend=backend)))


def test_long_value_is_shortened_in_the_error(tmp_path):
    assert len(refusal(written(tmp_path, version="9" * 100_000))) < 1000


@pytest.mark.parametrize("name", ["a-dash", "a.dot", "1st", "class", "a/b", "../x", "n\u00f6rms", "\uff4ason"])
def test_id_that_is_no_identifier_is_refused(tmp_path, name):
    assert "Python identifier" in refusal(written(tmp_path, id=name))


@pytest.mark.parametrize("name", ["colorsys", "json", "sys"])
def test_id_of_a_standard_library_module_is_refused(tmp_path, name):
    assert "standard library" in refusal(written(tmp_path, id=name))


def test_digests_are_read(tmp_path):
    digest = read_metadata(written(tmp_path, digest={"algorithm": "sha256", "files": {"ops/__init__.py": SHA256}})).digest
    assert digest is not None
    assert digest.algorithm == "sha256"
    assert digest.files == {"ops/__init__.py": hashlib.sha256(b"").digest()}


def test_digests_that_the_kernels_package_writes_are_those_of_the_files(tmp_path):
    # Written by kernels 0.17.2 for a build of these two files and its metadata.json, which it leaves out.
    files = {"__init__.py": "mHUu4o1UhL3CgU+3CttqCy+zH2qbjueugf0vyc8wCzs=", "sub/a.py": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}
    digest = read_metadata(written(tmp_path, digest={"algorithm": "sha256", "files": files})).digest
    assert digest is not None
    assert digest.files == {"__init__.py": hashlib.sha256(b"x=1\n").digest(), "sub/a.py": hashlib.sha256(b"").digest()}


@pytest.mark.parametrize(
    ("digest", "key"),
    [
        ({"files": {}}, "digest.algorithm"),
        ({"algorithm": "md5", "files": {}}, "digest.algorithm"),
        ({"algorithm": "sha256"}, "digest.files"),
        ({"algorithm": "sha256", "files": ["__init__.py"]}, "digest.files"),
        ({"algorithm": "sha256", "files": {"__init__.py": 1}}, "digest.files.__init__.py"),
        ({"algorithm": "sha256", "files": {"__init__.py": "not base64"}}, "digest.files.__init__.py"),
        ({"algorithm": "sha256", "files": {"__init__.py": SHA256[:-4]}}, "digest.files.__init__.py"),
        ({"algorithm": "sha512", "files": {"__init__.py": SHA256}}, "digest.files.__init__.py"),
    ],
)
def test_digest_that_cannot_be_one_is_named_with_its_key(tmp_path, digest, key):
    message = refusal(written(tmp_path, digest=digest))
    assert str(tmp_path / "metadata.json") in message
    assert repr(key) in message


@pytest.mark.parametrize("path", ["../layers.py", "/etc/passwd", "", "a//b", "a\\b", "c:layers.py", "layers.py\x00", "./layers.py/.."])
def test_path_that_leaves_the_build_is_refused(tmp_path, path):
    message = refusal(written(tmp_path, digest={"algorithm": "sha256", "files": {path: SHA256}}))
    assert f"{tmp_path / 'metadata.json'}: key 'digest.files'" in message
    assert repr(path) in message


def test_kernel_dependencies_are_read(tmp_path):
    depends = [{"repo-id": "acme/norms", "version": 2}, {"repo-id": "acme/rope", "revision": "9a31f0c", "later": 1}]
    metadata = read_metadata(written(tmp_path, **{"kernel-depends": depends}))
    assert metadata.kernel_depends == (RepositoryRequest("acme/norms", version=2), RepositoryRequest("acme/rope", revision="9a31f0c"))


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({}, "'kernel-depends[0].repo-id'"),
        ({"repo-id": "norms", "version": 1}, "'norms' is no repository on the Hub"),
        ({"repo-id": "../norms", "version": 1}, "'../norms' is no repository on the Hub"),
        ({"repo-id": "acme/norms"}, "acme/norms has neither a version nor a revision"),
        ({"repo-id": "acme/norms", "version": 1, "revision": "main"}, "acme/norms has version 1 and revision 'main'"),
        ({"repo-id": "acme/norms", "version": "1"}, "'kernel-depends[0].version' is '1'"),
        ({"repo-id": "acme/norms", "revision": "../../main"}, "acme/norms has the revision '../../main'"),
        ({"repo-id": "acme/norms", "revision": ""}, "'kernel-depends[0].revision' is ''"),
    ],
)
def test_kernel_dependency_that_is_none_is_named(tmp_path, entry, problem):
    message = refusal(written(tmp_path, **{"kernel-depends": [entry]}))
    assert str(tmp_path / "metadata.json") in message
    assert problem in message


def test_kernel_dependency_on_two_builds_of_one_repository_is_refused(tmp_path):
    depends = [{"repo-id": "acme/norms", "version": 1}, {"repo-id": "acme/norms", "version": 2}]
    assert "acme/norms twice" in refusal(written(tmp_path, **{"kernel-depends": depends}))


def test_missing_file_is_named_with_the_keys_it_needs(tmp_path):
    message = refusal(tmp_path)
    assert f"{tmp_path / 'metadata.json'} does not exist" in message
    assert "python-depends" in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "cannot be read as JSON"),
        (b"[]", "holds a JSON list, it must hold an object"),
        (b"\x00", "cannot be read as JSON"),
        (b"\xff\xfe\xfd", "cannot be read as JSON"),
        (b"", "cannot be read as JSON"),
        (b'{"id": "norms", "id": "other"}', "the key 'id' is in one object twice"),
        (b'{"backend": {"type": "cpu", "type": "cuda"}}', "the key 'type' is in one object twice"),
        (b'{"version": NaN}', "NaN is no JSON number"),
        (b'{"version": ' + b"9" * 10_000 + b"}", "cannot be read as JSON"),
        (b'{"a": ' + b"[" * 200_000, "nested too deeply"),
    ],
)
def test_file_that_is_no_json_object_of_one_meaning_is_refused(tmp_path, content, problem):
    path = tmp_path / "metadata.json"
    path.write_bytes(content)
    message = refusal(tmp_path)
    assert str(path) in message
    assert problem in message


def test_file_that_is_absurdly_large_is_refused_unread(tmp_path):
    path = tmp_path / "metadata.json"
    with path.open("wb") as file:
        file.truncate(SIZE_LIMIT + 1)
    assert f"{path} cannot be read: it is larger than" in refusal(tmp_path)


def test_pipe_in_the_place_of_the_file_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "metadata.json")
    assert "no regular file" in refusal(tmp_path)


@given(st.binary())
@example(b'{"name": "\\ud800"}')
def test_arbitrary_content_is_refused_with_the_file_named(content):
    with pytest.raises(RepositoryError, match="acme/norms/metadata.json"):
        parse_metadata(content, "acme/norms/metadata.json")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
optional_keys = st.sampled_from(["upstream", "source", "kernels-minver", "kernel-depends", "digest", "provenance", "later"])


@given(st.dictionaries(st.sampled_from(list(COMPLETE)) | optional_keys, values))
@example({"kernel-depends": [{"repo-id": "a/b", "version": []}]})
@example({"digest": {"algorithm": [], "files": {}}})
def test_whatever_stands_in_a_key_the_file_is_read_or_refused_by_name(changes):
    content = json.dumps(COMPLETE | changes).encode()
    try:
        parse_metadata(content, "acme/norms/metadata.json")
    except RepositoryError:
        with pytest.raises(RepositoryError, match="acme/norms/metadata.json"):
            parse_metadata(content, "acme/norms/metadata.json")


def test_module_of_a_build_is_the_variants_directory(tmp_path):
    (tmp_path / "__init__.py").touch()
    (tmp_path / "norms").mkdir()
    (tmp_path / "norms" / "__init__.py").touch()
    assert package_directory(tmp_path, read_metadata(written(tmp_path))) == tmp_path


def test_module_of_an_older_build_is_the_directory_with_the_kernels_name(tmp_path):
    package = tmp_path / "flash_norms"
    package.mkdir()
    (package / "__init__.py").touch()
    assert package_directory(tmp_path, read_metadata(written(tmp_path, name="flash-norms"))) == package


def test_build_without_a_module_says_where_it_was_looked_for(tmp_path):
    metadata = read_metadata(written(tmp_path))
    with pytest.raises(RepositoryError, match=r"neither __init__\.py nor, as in older builds, norms/__init__\.py"):
        package_directory(tmp_path, metadata)


@pytest.mark.parametrize("name", ["..", "../outside", "/", "a b"])
def test_name_that_is_no_packages_name_leads_nowhere(tmp_path, name):
    build = tmp_path / "build"
    build.mkdir()
    (tmp_path / "__init__.py").touch()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "__init__.py").touch()
    with pytest.raises(RepositoryError, match=r"has nothing to import: neither __init__\.py$|has nothing to import"):
        package_directory(build, read_metadata(written(build, name=name)))
