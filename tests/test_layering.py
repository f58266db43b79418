"""The shape of the project: which room may import which, and what importing the library may not do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Imports point down. A room may import rooms of its own level and of lower ones. A new module of fxkernels/ gets its place here.
LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"passes"}),
    frozenset({"annotate", "annotations_in_source", "cache_directory", "device", "errors"})
    | frozenset({"fallback", "fuel", "mapping", "mode", "target", "versions"}),
    frozenset({"kernels", "hub", "builtin"}),
    frozenset({"admission", "capture", "candidates", "constrained", "report", "selection"}),
    frozenset({"transform", "explaining", "on_fakes", "symbolic", "kernelized", "backend", "options", "gatekeeper", "culprit", "tuning"}),
    frozenset({"__init__", "__main__", "cli", "demo_model", "entry_point", "integrations", "testing"}),
)
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

PRIVATE_TORCH_ROOM = "fxkernels/capture/_torch/"

# Kernel repositories are other people's code in shape: they import nothing of the library and are imported under ids of their own.
SOURCES = sorted(
    path.relative_to(ROOT)
    for folder in ("fxkernels", "passes")
    for path in (ROOT / folder).rglob("*.py")
    if "build" not in path.relative_to(ROOT).parts and not path.relative_to(ROOT).is_relative_to("fxkernels/passes")
)
EVERYTHING = [*SOURCES, *sorted(path.relative_to(ROOT) for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))]


def test_passes_import_nothing_of_fxkernels() -> None:
    passes = [path for path in SOURCES if path.parts[0] == "passes"]
    assert [f"{path}: {name}" for path in passes for name in imports(path) if room_of_import(name) not in (None, "passes")] == []


def test_imports_point_down() -> None:
    upward = []
    for path in SOURCES:
        own = room_of(path)
        for name in imports(path):
            other = room_of_import(name)
            if other and LEVEL_OF[other] > LEVEL_OF.get(own, 0):
                upward.append(f"{path} imports {name}: {other} is above {own}")
    assert upward == []


def test_every_room_has_a_level() -> None:
    assert sorted({room_of(path) for path in SOURCES} - set(LEVEL_OF)) == []


def test_every_folder_of_the_library_explains_itself() -> None:
    folders = {path.parent for path in SOURCES}
    silent = [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists() or not docstring_of(folder / "__init__.py")]
    assert sorted(silent) == []


def test_nobody_imports_the_bare_name_passes() -> None:
    assert [str(path) for path in EVERYTHING if any(name.split(".")[0] == "passes" for name in imports(path))] == []


def test_private_torch_apis_are_used_in_one_file_only() -> None:
    private = [
        f"{path}: {name}"
        for path in SOURCES
        if not path.as_posix().startswith(PRIVATE_TORCH_ROOM)
        for name in (*imports(path), *torch_attributes(path))
        if is_private_torch(name)
    ]
    assert private == []


@pytest.mark.parametrize(
    ("source", "private"),
    [
        ("import torch._dynamo", True),
        ("from torch import _guards", True),
        ("from torch._subclasses.fake_tensor import FakeTensor", True),
        ("from torch.utils import _pytree", True),
        ("import torch\ntorch._C._get_tracing_state()", True),
        ("import torch\ntorch.__version__", False),
        ("import torch\nmodel._parameters", False),
        ("from torch.fx.experimental.symbolic_shapes import guard_or_false", False),
    ],
)
def test_private_torch_apis_are_recognised(source: str, private: bool, tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text(source)
    assert any(is_private_torch(name) for name in (*imports(file), *torch_attributes(file))) is private


def test_importing_the_library_loads_no_compiler_and_no_network_client_and_registers_nothing() -> None:
    script = """
import sys, torch
before = set(sys.modules)
import fxkernels, fxkernels.mapping
loaded = set(sys.modules) - before
print(loaded & {"torch._dynamo", "torch._inductor", "huggingface_hub.hf_api", "httpx", "requests", "transformers", "kernels"} or "nothing")
print(fxkernels.mapping.current_mapping().layer_names, torch.cuda.is_initialized())
"""
    assert run(script) == ["nothing", "() False"]


def test_importing_the_bare_name_passes_raises_and_gives_the_right_name() -> None:
    script = "try:\n    import passes\nexcept ImportError as error:\n    print(error)\n"
    assert run(script) == ["this package is named fxkernels.passes: write `import fxkernels.passes`, not `import passes`"]


def run(script: str) -> list[str]:
    """The lines that a fresh interpreter in the checkout prints."""
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()


def docstring_of(path: Path) -> str | None:
    return ast.get_docstring(ast.parse((ROOT / path).read_text()))


def imports(path: Path) -> Iterator[str]:
    """The full dotted names of everything that a file imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = parent_package(path, node.level) if node.level else []
            yield from (".".join([*package, *filter(None, [node.module]), alias.name]) for alias in node.names)


def parent_package(path: Path, level: int) -> list[str]:
    """What the leading dots of a relative import stand for."""
    folders = ["fxkernels", *path.parts[:-1]] if path.parts[0] == "passes" else list(path.parts[:-1])
    return folders[: len(folders) - level + 1]


def torch_attributes(path: Path) -> Iterator[str]:
    """Every dotted expression that begins with the name `torch`."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        words = []
        while isinstance(node, ast.Attribute):
            words.append(node.attr)
            node = node.value
        if words and isinstance(node, ast.Name) and node.id == "torch":
            yield ".".join(["torch", *reversed(words)])


def is_private_torch(name: str) -> bool:
    head, *rest = name.split(".")
    return head == "torch" and any(word.startswith("_") and not word.endswith("__") for word in rest)


def room_of(path: Path) -> str:
    return "passes" if path.parts[0] == "passes" else Path(path.parts[1]).stem


def room_of_import(name: str) -> str | None:
    """The room that an import enters; None for imports from outside. A name that is no room comes from the package itself."""
    head, *rest = name.split(".")
    if head != "fxkernels":
        return None
    return rest[0] if rest and rest[0] in LEVEL_OF else "__init__"
