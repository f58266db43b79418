"""What a kernel sees of the kernels that it depends on."""

from __future__ import annotations

import builtins
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from kernel_builds import left_in_process, written

import fxkernels
from fxkernels.errors import RepositoryError
from fxkernels.hub import import_variant

Importer = Callable[..., ModuleType]

WAYS_TO_ASK = {
    "from fxkernels": "from fxkernels import get_kernel_dep\nused = get_kernel_dep('acme/base')",
    "import fxkernels": "import fxkernels\nused = fxkernels.get_kernel_dep('acme/base')",
    "from kernels": "from kernels import get_kernel_dep\nused = get_kernel_dep('acme/base')",
    "from kernels, renamed": "from kernels import get_kernel_dep as ask\nused = ask('acme/base')",
    "import kernels": "import kernels\nused = kernels.get_kernel_dep('acme/base')",
    "import kernels, renamed": "import kernels as k\nused = k.get_kernel_dep('acme/base')",
    "in a function": "def ask():\n    import kernels\n    return kernels.get_kernel_dep('acme/base')\nused = ask()",
    "in a class": "class Ask:\n    from kernels import get_kernel_dep\n    used = get_kernel_dep('acme/base')\nused = Ask.used",
    "from kernels.deps": "from kernels.deps import get_kernel_dep\nused = get_kernel_dep('acme/base')",
    "import kernels.deps": "import kernels.deps\nused = kernels.deps.get_kernel_dep('acme/base')",
    "import kernels.deps, renamed": "import kernels.deps as deps\nused = deps.get_kernel_dep('acme/base')",
}


@pytest.fixture
def load(tmp_path) -> Importer:
    """Write a build and import it with dependencies."""

    def load(module_name: str, files: dict[str, str] | str, **dependencies: ModuleType) -> ModuleType:
        texts = {"__init__.py": files} if isinstance(files, str) else files
        directory = written(tmp_path / module_name, texts)
        by_repository = {f"acme/{name}": module for name, module in dependencies.items()}
        return import_variant(directory, module_name, "acme/dependant", by_repository)

    return load


def refusal(function: Callable[[], object]) -> str:
    with pytest.raises(RepositoryError) as caught:
        function()
    assert caught.value.code == "load_error"
    return str(caught.value)


@pytest.mark.parametrize("way", WAYS_TO_ASK)
def test_declared_dependency_is_visible_however_a_kernel_asks_for_it(load, way):
    number = list(WAYS_TO_ASK).index(way)
    base = load(f"dependencies_base{number}", "V = 1")
    assert load(f"dependencies_asking{number}", WAYS_TO_ASK[way], base=base).used is base


@pytest.mark.parametrize("way", [way for way in WAYS_TO_ASK if "fxkernels" not in way])
def test_kernels_package_need_not_be_installed(load, way, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "kernels"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kernels", None)  # an import of it fails as if it were not there
    number = list(WAYS_TO_ASK).index(way)
    base = load(f"dependencies_bare_base{number}", "V = 1")
    assert load(f"dependencies_bare{number}", WAYS_TO_ASK[way], base=base).used is base


def test_something_else_of_a_kernels_package_that_is_not_installed_is_an_import_error(load, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "kernels"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kernels", None)
    assert "cannot import name 'LayerRepository' from 'kernels'" in refusal(
        lambda: load("dependencies_absent1", "from kernels import LayerRepository")
    )
    assert "the package 'kernels' is not installed" in refusal(lambda: load("dependencies_absent2", "import kernels\nkernels.get_kernel"))
    assert "dependencies_absent3" in refusal(lambda: load("dependencies_absent3", "import kernels.layer"))


def test_submodules_of_a_kernel_see_its_dependencies(load):
    base = load("dependencies_sub_base", "V = 1")
    layers = "from kernels import get_kernel_dep\nused = get_kernel_dep('acme/base')"
    files = {"__init__.py": "from .inner import layers", "inner/layers.py": layers}
    assert load("dependencies_sub", files, base=base).layers.used is base


def test_rest_of_the_kernels_package_is_the_real_one(load):
    kernels = pytest.importorskip("kernels")
    text = """
from kernels import LayerRepository
import kernels
import kernels.layer
from kernels.layer import Mode
from kernels import layer as a_submodule
from kernels.deps import DepTreeNode
import fxkernels
ours = kernels.get_kernel_dep is fxkernels.get_kernel_dep
"""
    module = load("dependencies_rest", text)
    assert module.LayerRepository is kernels.LayerRepository
    assert module.Mode is kernels.layer.Mode
    assert module.a_submodule is kernels.layer
    assert module.kernels.layer is kernels.layer
    assert module.DepTreeNode is kernels.deps.DepTreeNode
    assert module.ours


def test_module_of_the_kernel_that_is_named_kernels_is_its_own(load):
    files = {"__init__.py": "from . import kernels\nfrom .kernels import V", "kernels.py": "V = 1"}
    module = load("dependencies_own", files)
    assert module.kernels.__name__ == "dependencies_own.kernels"
    assert module.V == 1


def test_kernels_package_itself_stays_as_it_is(load):
    kernels = pytest.importorskip("kernels")
    function, names, module = kernels.get_kernel_dep, dict(vars(kernels)), sys.modules["kernels"]
    base = load("dependencies_untouched_base", "V = 1")
    text = "from kernels import get_kernel_dep\nimport kernels\nused = get_kernel_dep('acme/base')"
    load("dependencies_untouched", text, base=base)
    assert kernels.get_kernel_dep is function
    assert dict(vars(kernels)) == names
    assert sys.modules["kernels"] is module
    assert builtins.__import__("kernels") is module
    with pytest.raises(RuntimeError, match="only works during kernel loading"):
        kernels.get_kernel_dep("acme/base")


def test_kernel_that_does_not_name_the_kernels_package_has_pythons_own_builtins(load):
    files = {"__init__.py": "from . import layers\nfrom fxkernels import get_kernel_dep", "layers.py": "import kernels"}
    module = load("dependencies_plain", files)
    for name, own in ((module, False), (module.layers, True)):
        value = vars(name)["__builtins__"]
        assert (value is builtins or value is vars(builtins)) is not own


def test_undeclared_dependency_is_refused_with_what_is_declared(load):
    base = load("dependencies_declared_base", "V = 1")
    message = refusal(lambda: load("dependencies_undeclared", "import kernels\nkernels.get_kernel_dep('acme/other')", base=base))
    assert "acme/dependant asks for the kernel 'acme/other', on which it does not declare to depend" in message
    assert "kernel-depends in its metadata.json: acme/base" in message
    assert "__init__.py:2" in message
    assert left_in_process("dependencies_undeclared") == []


def test_kernel_without_dependencies_gets_none(load):
    message = refusal(lambda: load("dependencies_none", "import kernels\nkernels.get_kernel_dep('acme/other')"))
    assert "kernel-depends in its metadata.json: (none)" in message


def test_dependency_cannot_be_asked_for_outside_of_an_import():
    message = refusal(lambda: fxkernels.get_kernel_dep("acme/base"))
    assert "get_kernel_dep('acme/base') was called while no kernel is being imported" in message
    assert "at the top level of a kernel's modules" in message


@pytest.mark.parametrize("package", ["fxkernels", "kernels"])
def test_dependency_cannot_be_asked_for_after_the_import(load, package):
    base = load(f"dependencies_late_base_{package}", "V = 1")
    text = f"def late():\n    from {package} import get_kernel_dep\n    return get_kernel_dep('acme/base')"
    module = load(f"dependencies_late_{package}", text, base=base)
    assert "while no kernel is being imported" in refusal(module.late)


def test_failed_import_makes_no_dependency_visible_afterwards(load):
    base = load("dependencies_failed_base", "V = 1")
    refusal(lambda: load("dependencies_failed", "1/0", base=base))
    assert "while no kernel is being imported" in refusal(lambda: fxkernels.get_kernel_dep("acme/base"))


def test_build_that_is_imported_by_another_one_does_not_see_its_dependencies(load, tmp_path):
    base = load("dependencies_nested_base", "V = 1")
    inner = written(tmp_path / "inner", {"__init__.py": "from fxkernels import get_kernel_dep\nget_kernel_dep('acme/base')"})
    text = f"""
from pathlib import Path
from fxkernels import RepositoryError, get_kernel_dep
from fxkernels.hub import import_variant
try:
    import_variant(Path({str(inner)!r}), "dependencies_nested_inner", "acme/inner")
except RepositoryError as error:
    message = str(error)
used = get_kernel_dep("acme/base")
"""
    module = load("dependencies_nested", text, base=base)
    assert "acme/inner asks for the kernel 'acme/base', on which it does not declare to depend" in module.message
    assert module.used is base


def test_other_threads_do_not_see_the_dependencies_of_an_import(load):
    base = load("dependencies_threads_base", "V = 1")
    load_started, asked = threading.Event(), threading.Event()
    messages: list[str] = []

    def ask() -> None:
        load_started.wait(10)
        messages.append(refusal(lambda: fxkernels.get_kernel_dep("acme/base")))
        asked.set()

    thread = threading.Thread(target=ask)
    thread.start()
    base.started, base.asked = load_started, asked
    text = "from kernels import get_kernel_dep\nbase = get_kernel_dep('acme/base')\nbase.started.set()\nassert base.asked.wait(10)"
    load("dependencies_threads", text, base=base)
    thread.join()
    assert "while no kernel is being imported" in messages[0]


def test_two_dependants_can_have_two_versions_of_one_dependency(load):
    one, two = load("dependencies_v1", "V = 1"), load("dependencies_v2", "V = 2")
    text = "from kernels import get_kernel_dep\nV = get_kernel_dep('acme/base').V"
    assert load("dependencies_of_v1", text, base=one).V == 1
    assert load("dependencies_of_v2", text, base=two).V == 2


def test_layer_in_a_module_that_names_the_kernels_package_is_compiled_in_one_graph(load):
    base = load("dependencies_compiled_base", "def double(x):\n    return x * 2")
    text = """
import torch
from kernels import get_kernel_dep
base = get_kernel_dep("acme/base")

class Layer(torch.nn.Module):
    def forward(self, x):
        parts = [base.double(part) for part in x.unbind()]
        return torch.stack(parts[: max(1, len(parts))]) if isinstance(x, torch.Tensor) else None
"""
    layer = load("dependencies_compiled", text, base=base).Layer()
    x = torch.randn(3, 4)
    for backend in ("eager", "aot_eager"):
        torch._dynamo.reset()
        assert torch.equal(torch.compile(layer, backend=backend, fullgraph=True)(x), x * 2)


def test_get_kernel_dep_is_exported_and_importing_it_loads_nothing_heavy():
    script = "import fxkernels, sys; fxkernels.get_kernel_dep; print('kernels' in sys.modules, 'torch._dynamo' in sys.modules)"
    root = Path(fxkernels.__file__).parent.parent
    result = subprocess.run([sys.executable, "-c", script], cwd=root, check=True, capture_output=True, text=True)
    assert result.stdout.split() == ["False", "False"]
    assert "get_kernel_dep" in fxkernels.__all__
