"""Importing a build under its unique id."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fxkernels.errors import RepositoryError
from fxkernels.hub.importer import import_variant

Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path) -> Build:
    """Write the files of a build and return its directory."""

    def write(files: dict[str, str], name: str = "torch-universal") -> Path:
        directory = tmp_path / name
        for file, text in files.items():
            (directory / file).parent.mkdir(parents=True, exist_ok=True)
            (directory / file).write_text(text)
        return directory

    return write


def left_in_process(module_name: str) -> list[str]:
    return [name for name in sys.modules if name == module_name or name.startswith(module_name + ".")]


def refusal(directory: Path, module_name: str) -> RepositoryError:
    with pytest.raises(RepositoryError) as caught:
        import_variant(directory, module_name, "acme/norms")
    assert caught.value.code == "load_error"
    return caught.value


def byte_code(directory: Path) -> list[Path]:
    return [*directory.rglob("*.pyc")]


def test_relative_imports_between_the_modules_of_a_build_work(build):
    directory = build(
        {
            "__init__.py": "from . import layers",
            "layers.py": "from .inner.constants import ANSWER\nfrom .inner import other",
            "inner/__init__.py": "",
            "inner/constants.py": "ANSWER = 42",
            "inner/other.py": "from .. import layers",
        }
    )
    assert import_variant(directory, "importer_relative", "acme/norms").layers.ANSWER == 42


def test_module_bears_the_builds_id(build):
    module = import_variant(build({"__init__.py": "from . import layers", "layers.py": ""}), "importer_named", "acme/norms")
    assert (module.__name__, module.layers.__name__) == ("importer_named", "importer_named.layers")
    assert sys.modules["importer_named"] is module


def test_same_build_twice_is_the_same_module(build):
    directory = build({"__init__.py": "value = object()"})
    first = import_variant(directory, "importer_twice", "acme/norms")
    assert import_variant(directory, "importer_twice", "acme/norms") is first


def test_two_ids_live_side_by_side(build):
    one = import_variant(build({"__init__.py": "from . import layers", "layers.py": "V = 1"}, "one"), "importer_v1", "acme/norms")
    two = import_variant(build({"__init__.py": "from . import layers", "layers.py": "V = 2"}, "two"), "importer_v2", "acme/norms")
    assert (one.layers.V, two.layers.V) == (1, 2)


def test_submodule_can_be_imported_as_late_as_in_a_function(build):
    directory = build({"__init__.py": "def late():\n    from . import more\n    return more.V", "more.py": "V = 3"})
    assert import_variant(directory, "importer_late", "acme/norms").late() == 3


def test_source_of_a_build_can_be_inspected(build):
    directory = build({"__init__.py": "def forward(self):\n    return self.weight\n"})
    assert "self.weight" in inspect.getsource(import_variant(directory, "importer_source", "acme/norms").forward)


def test_failed_import_leaves_nothing_behind(build):
    directory = build(
        {"__init__.py": "from . import fine, broken", "fine.py": "from .deep import down", "deep/down.py": "", "broken.py": "1/0"}
    )
    refusal(directory, "importer_failing")
    assert left_in_process("importer_failing") == []


def test_failed_submodule_import_in_a_loaded_build_leaves_the_build_alone(build):
    directory = build({"__init__.py": "def late():\n    from . import broken", "broken.py": "1/0"})
    module = import_variant(directory, "importer_partly", "acme/norms")
    with pytest.raises(ZeroDivisionError):
        module.late()
    assert left_in_process("importer_partly") == ["importer_partly"]


def test_retry_works_after_the_file_was_mended(build):
    files = {"__init__.py": "from . import layers", "layers.py": "VALUE = 1 / 0"}
    refusal(build(files), "importer_mended")
    module = import_variant(build(files | {"layers.py": "VALUE = 1 / 1"}), "importer_mended", "acme/norms")
    assert module.layers.VALUE == 1


def test_retry_works_after_a_missing_file_was_added(build):
    refusal(build({"__init__.py": "from . import layers"}), "importer_added")
    module = import_variant(build({"layers.py": "VALUE = 1"}), "importer_added", "acme/norms")
    assert module.layers.VALUE == 1


def test_failed_id_can_be_used_by_another_directory(build):
    refusal(build({"__init__.py": "1/0"}, "one"), "importer_freed")
    assert import_variant(build({"__init__.py": "V = 2"}, "two"), "importer_freed", "acme/norms").V == 2


def test_error_names_repository_file_and_line_and_keeps_the_cause(build):
    directory = build({"__init__.py": "from . import layers", "layers.py": "import json\n\n\ndef fail():\n    json.loads('{')\n\nfail()\n"})
    error = refusal(directory, "importer_where")
    assert "acme/norms cannot be imported: JSONDecodeError" in str(error)
    assert f"{directory / 'layers.py'}:5" in str(error)
    assert isinstance(error.__cause__, ValueError)


def test_error_of_a_missing_package_names_the_import_statement(build):
    directory = build({"__init__.py": "x = 1\nimport a_package_that_does_not_exist"})
    error = refusal(directory, "importer_missing")
    assert "No module named 'a_package_that_does_not_exist'" in str(error)
    assert f"{directory / '__init__.py'}:2" in str(error)


def test_error_of_bad_syntax_names_its_line(build):
    directory = build({"__init__.py": "from . import layers", "layers.py": "x = 1\ny = = 2\n"})
    assert f"{directory / 'layers.py'}:2" in str(refusal(directory, "importer_syntax"))


def test_build_that_exits_is_an_error_and_does_not_end_the_program(build):
    assert "SystemExit" in str(refusal(build({"__init__.py": "import sys\nsys.exit(3)"}), "importer_exit"))


def test_interrupted_import_stays_an_interrupt_and_leaves_nothing(build):
    directory = build({"__init__.py": "from . import fine\nraise KeyboardInterrupt", "fine.py": ""})
    with pytest.raises(KeyboardInterrupt):
        import_variant(directory, "importer_interrupt", "acme/norms")
    assert left_in_process("importer_interrupt") == []


def test_build_without_init_is_refused(build):
    assert "__init__.py does not exist" in str(refusal(build({"layers.py": ""}), "importer_no_init"))


def test_id_of_an_imported_module_is_refused_and_the_module_stays(build):
    before = sys.modules["torch"]
    assert "name of another module" in str(refusal(build({"__init__.py": ""}), "torch"))
    assert sys.modules["torch"] is before


def test_id_of_an_installed_module_that_is_not_yet_imported_is_refused(build, tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "importer_installed.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert "name of another module" in str(refusal(build({"__init__.py": ""}), "importer_installed"))


def test_id_of_another_build_is_refused_and_names_both(build):
    one, two = build({"__init__.py": ""}, "one"), build({"__init__.py": ""}, "two")
    import_variant(one, "importer_taken", "acme/norms")
    message = str(refusal(two, "importer_taken"))
    assert str(one) in message
    assert str(two) in message


def test_threads_that_import_at_once_get_one_module(build):
    directory = build({"__init__.py": "import time\ntime.sleep(0.2)\nfrom . import layers", "layers.py": "V = object()"})
    gate = threading.Barrier(8)
    found: list[Any] = []

    def load() -> None:
        gate.wait()
        found.append(import_variant(directory, "importer_threads", "acme/norms").layers.V)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_threads_that_fail_at_once_all_hear_of_it_and_leave_nothing(build):
    directory = build({"__init__.py": "import time\nfrom . import fine\ntime.sleep(0.05)\n1/0", "fine.py": ""})
    errors: list[str] = []

    def load() -> None:
        errors.append(str(refusal(directory, "importer_failing_threads")))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 4
    assert all("ZeroDivisionError" in error for error in errors)
    assert left_in_process("importer_failing_threads") == []


def test_build_may_import_another_build_during_its_own_import(build):
    inner = build({"__init__.py": "V = 5"}, "inner")
    imports = "from pathlib import Path\nfrom fxkernels.hub import import_variant\n"
    text = f"{imports}V = import_variant(Path({str(inner)!r}), 'importer_inner', 'b').V"
    assert import_variant(build({"__init__.py": text}, "outer"), "importer_outer", "acme/norms").V == 5


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


def test_modules_that_are_no_kernels_are_still_found_by_python_itself(build):
    import_variant(build({"__init__.py": ""}), "importer_bystander", "acme/norms")
    assert importlib.util.find_spec("colorsys").origin.endswith("colorsys.py")
    assert importlib.util.find_spec("a_package_that_does_not_exist") is None
