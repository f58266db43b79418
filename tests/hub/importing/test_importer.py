"""Importing a build under its unique id, completely or not at all."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_builds import left_in_process, published, written

from fxkernels.errors import RepositoryError
from fxkernels.hub.importing.importer import import_variant, imported_module

Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path) -> Build:
    """Write the files of a build and return its directory."""

    def write(files: dict[str, str], name: str = "torch-universal") -> Path:
        return written(tmp_path / name, files)

    return write


def refusal(directory: Path, module_name: str) -> RepositoryError:
    with pytest.raises(RepositoryError) as caught:
        import_variant(directory, module_name, "acme/norms")
    assert caught.value.code == "load_error"
    return caught.value


def importing(directory: Path, module_name: str) -> str:
    """Source that imports another build."""
    imports = "from pathlib import Path\nfrom fxkernels.hub import import_variant\n"
    return f"{imports}inner = import_variant(Path({str(directory)!r}), {module_name!r}, 'acme/inner')\n"


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
    module = import_variant(build({"__init__.py": importing(inner, "importer_inner")}, "outer"), "importer_outer", "acme/norms")
    assert module.inner.V == 5


def test_older_layout_is_imported_from_the_directory_with_the_kernels_name(build):
    directory = build({"norms/__init__.py": "from . import layers", "norms/layers.py": "V = 1"})
    module = import_variant(directory, "importer_older", "acme/norms", package=directory / "norms", expected=published(directory))
    assert (module.__name__, module.layers.V) == ("importer_older", 1)


def test_build_that_was_not_imported_is_no_module_yet(build):
    directory = build({"__init__.py": ""})
    assert imported_module(directory, "importer_asked") is None
    module = import_variant(directory, "importer_asked", "acme/norms")
    assert imported_module(directory, "importer_asked") is module
    assert imported_module(build({"__init__.py": ""}, "other"), "importer_asked") is None


def test_build_that_was_taken_out_of_the_process_is_imported_anew(build):
    directory = build({"__init__.py": "V = object()"})
    first = import_variant(directory, "importer_anew", "acme/norms")
    del sys.modules["importer_anew"]
    assert imported_module(directory, "importer_anew") is None
    assert import_variant(directory, "importer_anew", "acme/norms").V is not first.V


def test_failed_import_takes_a_build_that_it_had_imported_out_again(build):
    inner = build({"__init__.py": "from . import layers", "layers.py": ""}, "inner")
    refusal(build({"__init__.py": importing(inner, "importer_only_for") + "1/0"}, "outer"), "importer_outer_failing")
    assert left_in_process("importer_only_for") == []
    assert import_variant(inner, "importer_only_for", "b").layers is not None


def test_failed_import_leaves_a_build_alone_that_was_imported_before(build):
    inner = build({"__init__.py": "from . import layers", "layers.py": ""}, "inner")
    module = import_variant(inner, "importer_before", "b")
    imports = (
        f"from pathlib import Path\nfrom fxkernels.hub import import_variant\nimport_variant(Path({str(inner)!r}), 'importer_before', 'b')"
    )
    refusal(build({"__init__.py": f"{imports}\n1/0"}, "outer"), "importer_outer_failing_too")
    assert import_variant(inner, "importer_before", "b") is module


def test_failed_import_takes_modules_out_that_the_build_imported_under_other_names(build):
    text = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("importer_alias", Path(__file__).parent / "more.py")
sys.modules["importer_alias"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["importer_alias"])
import colorsys
1/0
"""
    refusal(build({"__init__.py": text, "more.py": ""}), "importer_alias_failing")
    assert "importer_alias" not in sys.modules
    assert "colorsys" in sys.modules


CUSTOM_OP = """
import torch
@torch.library.custom_op("{namespace}::double", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2
"""
LIBRARY = """
import torch
library = torch.library.Library("{namespace}", "DEF")
library.define("double(Tensor x) -> Tensor")
library.impl("double", lambda x: x * 2, "CPU")
"""
NO_LIBRARY = """
import torch
torch.library.define("{namespace}::double", "(Tensor x) -> Tensor")
"""


@pytest.mark.parametrize("text", [CUSTOM_OP, LIBRARY], ids=["custom_op", "Library"])
def test_retry_works_after_an_import_that_had_registered_ops_failed(build, text):
    namespace = f"importer_ops_{'custom' if text is CUSTOM_OP else 'library'}"
    files = {"__init__.py": "from . import ops, layers", "ops.py": text.format(namespace=namespace), "layers.py": "1/0"}
    error = refusal(build(files), namespace)
    again = refusal(build(files), namespace)  # with the first error, and through it the first modules' globals, still alive
    assert "ZeroDivisionError" in str(error)
    assert "ZeroDivisionError" in str(again)
    import_variant(build(files | {"layers.py": ""}), namespace, "acme/norms")
    assert torch.equal(getattr(torch.ops, namespace).double(torch.ones(2)), torch.full((2,), 2.0))


def test_an_op_that_a_failed_import_has_looked_up_is_forgotten(build):
    ops = LIBRARY.format(namespace="importer_ops_looked_up") + "torch.ops.importer_ops_looked_up.double"
    refusal(build({"__init__.py": "from . import ops, layers", "ops.py": ops, "layers.py": "1/0"}), "importer_ops_looked_up")
    # Inductor goes through the ops of all namespaces, and with torch 2.11 fails at one that is there no more.
    assert not hasattr(torch.ops.importer_ops_looked_up, "double")


def test_retry_that_an_op_of_the_failed_import_makes_impossible_says_so(build):
    files = {"__init__.py": NO_LIBRARY.format(namespace="importer_ops_kept") + "from . import layers", "layers.py": "1/0"}
    assert "start a new process" not in str(refusal(build(files), "importer_ops_kept"))
    message = str(refusal(build(files | {"layers.py": ""}), "importer_ops_kept"))
    assert "double" in message
    assert "It has failed in this process before" in message
    assert "start a new process" in message
    assert left_in_process("importer_ops_kept") == []
