"""The modules of a build as Python's import system finds them: what is run is the verified file."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from kernel_builds import digests_of, left_in_process, published, written

from fxkernels.errors import RepositoryError
from fxkernels.hub import import_variant
from fxkernels.hub.builds.digests import Digests

Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path) -> Build:
    """Write the files of a build and return its directory."""

    def write(files: dict[str, str], name: str = "torch-universal") -> Path:
        return written(tmp_path / name, files)

    return write


def refusal(directory: Path, module_name: str, expected: Digests | None = None) -> RepositoryError:
    with pytest.raises(RepositoryError) as caught:
        import_variant(directory, module_name, "acme/norms", expected=expected)
    assert caught.value.code == ("load_error" if expected is None else "digest")
    return caught.value


def byte_code(directory: Path) -> list[Path]:
    return [*directory.rglob("*.pyc")]


def test_source_of_a_build_can_be_inspected(build):
    directory = build({"__init__.py": "def forward(self):\n    return self.weight\n"})
    assert "self.weight" in inspect.getsource(import_variant(directory, "importer_source", "acme/norms").forward)


def test_no_byte_code_is_written(build, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    directory = build({"__init__.py": "from . import layers", "layers.py": "from .inner import more", "inner/more.py": ""})
    import_variant(directory, "importer_unwritten", "acme/norms")
    assert byte_code(directory) == []
    assert sys.dont_write_bytecode is False


def test_byte_code_that_lies_beside_the_source_is_not_read(build, monkeypatch):
    monkeypatch.setattr(sys, "pycache_prefix", None)
    directory = build({"__init__.py": "from . import layers", "layers.py": "V = 'from the source'"})
    for name in ("__init__", "layers"):
        _plant_byte_code(directory / f"{name}.py", "raise AssertionError('byte code was run')")
    assert import_variant(directory, "importer_unread", "acme/norms").layers.V == "from the source"


def test_byte_code_without_source_is_no_module(build, tmp_path):
    directory = build({"__init__.py": "from . import layers"})
    source = tmp_path / "layers.py"
    source.write_text("V = 'from byte code'")
    _plant_byte_code(source, source.read_text(), target=directory / "layers.pyc")
    assert "layers" in str(refusal(directory, "importer_sourceless"))


def _plant_byte_code(source: Path, text: str, target: Path | None = None) -> None:
    """Write byte code that Python itself would take for that of `source`."""
    target = target or Path(importlib.util.cache_from_source(str(source)))
    target.parent.mkdir(exist_ok=True)
    stat = source.stat()
    code = compile(text, str(source), "exec")
    target.write_bytes(importlib._bootstrap_external._code_to_timestamp_pyc(code, int(stat.st_mtime), stat.st_size))


def test_file_that_changed_after_it_was_verified_is_not_run(build):
    directory = build({"__init__.py": "from . import layers", "layers.py": "V = 1"})
    expected = published(directory)
    (directory / "layers.py").write_text("raise AssertionError('changed code was run')")
    message = str(refusal(directory, "importer_changed", expected))
    assert f"{directory / 'layers.py'} (44 bytes) has the sha256" in message
    assert left_in_process("importer_changed") == []


def test_changed_file_is_an_error_even_if_the_kernel_catches_everything(build):
    directory = build({"__init__.py": "try:\n    from . import layers\nexcept Exception:\n    layers = None", "layers.py": "V = 1"})
    expected = published(directory)
    (directory / "layers.py").write_text("V = 2")
    assert "layers.py (5 bytes)" in str(refusal(directory, "importer_swallowed", expected))
    assert left_in_process("importer_swallowed") == []
    (directory / "layers.py").write_text("V = 1")
    assert import_variant(directory, "importer_swallowed", "acme/norms", expected=expected).layers.V == 1


def test_changed_file_is_an_error_even_if_the_kernel_raises_something_else_about_it(build):
    text = "try:\n    from . import layers\nexcept Exception:\n    raise ImportError('reinstall me')"
    directory = build({"__init__.py": text, "layers.py": "V = 1"})
    expected = published(directory)
    (directory / "layers.py").write_text("V = 2")
    assert "layers.py (5 bytes)" in str(refusal(directory, "importer_renamed", expected))


@pytest.mark.parametrize("planted", ["layers/__init__.py", f"layers{EXTENSION_SUFFIXES[0]}"])
def test_file_that_was_planted_to_be_found_before_the_source_is_not_run(build, planted):
    directory = build({"__init__.py": "from . import layers", "layers.py": "V = 1"})
    expected = published(directory)
    build({planted: "raise AssertionError('planted code was run')"})
    assert f"{directory / planted} is not part of it" in str(refusal(directory, "importer_planted", expected))


def test_compiled_code_that_changed_is_not_loaded(build):
    name = f"_C{EXTENSION_SUFFIXES[0]}"
    directory = build({"__init__.py": "from . import _C", name: "published"})
    expected = published(directory)
    (directory / name).write_text("tampered!")
    assert f"{directory / name} (9 bytes) has the sha256" in str(refusal(directory, "importer_tampered_library", expected))


def test_compiled_code_that_is_the_published_one_is_loaded(build):
    source = Path(importlib.util.find_spec("_bisect").origin)
    directory = build({"__init__.py": "from . import _bisect"})
    (directory / source.name).write_bytes(source.read_bytes())
    module = import_variant(directory, "importer_library", "acme/norms", expected=published(directory))
    assert module._bisect.__file__ == str(directory / source.name)
    assert module._bisect.bisect_left([1, 2, 3], 2) == 1


def test_submodule_that_is_imported_late_is_held_to_its_digest(build):
    directory = build({"__init__.py": "def late():\n    from . import more\n    return more.V", "more.py": "V = 3"})
    module = import_variant(directory, "importer_late_changed", "acme/norms", expected=published(directory))
    (directory / "more.py").write_text("V = 4")
    with pytest.raises(RepositoryError, match=r"more.py \(5 bytes\) has the sha256"):
        module.late()
    (directory / "more.py").write_text("V = 3")
    assert module.late() == 3


def test_module_from_outside_of_the_build_is_refused_where_there_are_digests(build, tmp_path):
    directory = build({"__init__.py": f"__path__.append({str(tmp_path)!r})\nfrom . import outside"})
    (tmp_path / "outside.py").touch()
    assert f"{tmp_path / 'outside.py'} is not part of it" in str(refusal(directory, "importer_outside", published(directory)))


def test_source_that_is_inspected_is_the_one_that_was_compiled(build):
    directory = build({"__init__.py": "\x0c\ndef forward(self):\r\n    return self.weight  # größe\n\n\ndef other(): ...\n"})
    module = import_variant(directory, "importer_inspected", "acme/norms")
    (directory / "__init__.py").write_text("def evil(self):\n    return 666\n")
    assert inspect.getsource(module.forward) == "def forward(self):\n    return self.weight  # größe\n"


def test_linked_files_of_the_cache_are_imported(build, tmp_path):
    blobs = build({"one": "from . import layers", "two": "V = 1"}, "blobs")
    directory = tmp_path / "snapshots" / "9a31f0c"
    directory.mkdir(parents=True)
    (directory / "__init__.py").symlink_to(blobs / "one")
    (directory / "layers.py").symlink_to(blobs / "two")
    expected = digests_of({"__init__.py": blobs / "one", "layers.py": blobs / "two"})
    module = import_variant(directory, "importer_linked", "acme/norms", expected=expected)
    assert module.layers.V == 1
    assert module.layers.__file__ == str(directory / "layers.py")


def test_modules_that_are_no_kernels_are_still_found_by_python_itself(build):
    import_variant(build({"__init__.py": ""}), "importer_bystander", "acme/norms")
    assert importlib.util.find_spec("colorsys").origin.endswith("colorsys.py")
    assert importlib.util.find_spec("a_package_that_does_not_exist") is None
