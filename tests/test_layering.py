"""The shape of the project: one order of rooms, no circles, and what importing the library may not do."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the bottom to the top: a room imports the rooms that stand before it in this list, and no other. A new room gets its place here.
ROOMS: tuple[str, ...] = (
    "passes",
    # values
    "errors",
    "fuel",
    "target",
    "mode",
    "mapping",
    "annotations_in_source",
    "annotate",
    "versions",
    "cache_directory",
    "byte_code",
    # what a kernel is, and where it comes from
    "_torch",
    "kernels",
    "constraints",
    "hub",
    "builtin",
    "fusion",
    "fusions",
    # what is known of a model's calls, and of a kernel for one of them
    "capture",
    "admission",
    "selection",
    "options",
    "decide",
    # what is done with a model
    "report",
    "dump",
    "dropped_output",
    "compositions",
    "backend",
    "explaining",
    "kernelized",
    "transform",
    "tuning",
    "debug",
    # what users and programs call
    "__init__",
    "testing",
    "entry_point",
    "demo_model",
    "cli",
    "__main__",
)
PLACE = {room: place for place, room in enumerate(ROOMS)}

PRIVATE_TORCH_ROOM = "fxkernels/capture/_torch/"

# The rooms whose test files are named after the modules of the room.
MIRRORED = ("admission", "capture", "cli", "constraints", "debug", "decide", "hub", "kernels", "passes", "report", "selection")

# Kernel repositories are other people's code in shape: they import nothing of the library and are imported under ids of their own.
SOURCES = sorted(
    path.relative_to(ROOT)
    for folder in ("fxkernels", "passes")
    for path in (ROOT / folder).rglob("*.py")
    if "build" not in path.relative_to(ROOT).parts and not path.relative_to(ROOT).is_relative_to("fxkernels/passes")
)
EVERYTHING = [*SOURCES, *sorted(path.relative_to(ROOT) for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))]


def test_every_room_has_one_place_and_every_place_a_room() -> None:
    assert sorted(ROOMS) == sorted({room_of(module_of(path)) for path in SOURCES})


def test_a_room_imports_only_rooms_below_it() -> None:
    upward = [
        f"{path} imports {other}: {room_of(other)} is above {room_of(own)}"
        for path in SOURCES
        for own, other in sorted(arrows(path))
        if PLACE[room_of(other)] > PLACE[room_of(own)]
    ]
    assert upward == []


def test_no_file_imports_itself_by_way_of_others() -> None:
    assert circle_in({module_of(path): {other for _, other in arrows(path)} for path in SOURCES}) == []


def test_every_folder_of_the_library_explains_itself() -> None:
    folders = {path.parent for path in SOURCES}
    silent = [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists() or not docstring_of(folder / "__init__.py")]
    assert sorted(silent) == []


@pytest.mark.parametrize("room", MIRRORED)
def test_tests_mirror_the_code(room: str) -> None:
    """tests/hub/remote/test_client.py is for fxkernels/hub/remote/client.py, and so is test_client_offline.py; tests/hub/test_hub.py is for
    the whole room."""
    strays = []
    for path in sorted((ROOT / "tests" / room).rglob("test_*.py")):
        folder = path.parent.relative_to(ROOT / "tests")
        subjects = {folder.name, *(module.stem for module in (ROOT / "fxkernels" / folder).glob("*.py"))}
        name = path.stem.removeprefix("test_")
        if not any(name == subject or name.startswith(f"{subject}_") for subject in subjects):
            strays.append(f"{path.relative_to(ROOT)} has no module in fxkernels/{folder}")
    assert strays == []


def test_the_bare_name_passes_is_imported_nowhere() -> None:
    assert [str(path) for path in EVERYTHING if any(name.split(".")[0] == "passes" for name in imports(path))] == []


def test_private_torch_apis_are_used_in_one_folder_only() -> None:
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


@pytest.mark.parametrize(
    ("source", "imported"),
    [
        ("from ..passes import plan", "fxkernels.passes.plan"),
        ("from ..passes.plan import Plan", "fxkernels.passes.plan"),
        ("from . import diff", "fxkernels.report.diff"),
        ("from .. import kernelize", "fxkernels"),
        ("import fxkernels.hub.remote.trust", "fxkernels.hub.remote.trust"),
        ("def late():\n    from ..transform import kernelize", "fxkernels.transform"),
        ("if TYPE_CHECKING:\n    from ..transform import kernelize", "fxkernels.transform"),
        ('importlib.import_module("fxkernels.debug.bisection")', "fxkernels.debug.bisection"),
        ('def late():\n    return import_module("..transform", __package__).kernelize', "fxkernels.transform"),
        ('__import__("fxkernels.transform")', "fxkernels.transform"),
        ("importlib.import_module(name)", None),
        ("import torch.fx", None),
    ],
)
def test_an_arrow_is_seen_however_it_is_written(source: str, imported: str | None) -> None:
    path = Path("fxkernels/report/example.py")
    assert [modules for name in imports(path, source) if (modules := module_of_import(name)) is not None] == (
        [imported] if imported else []
    )


def test_a_circle_is_found_and_named_from_file_to_file() -> None:
    assert circle_in({"a": {"b", "d"}, "b": {"c"}, "c": {"d", "b"}, "d": set()}) == ["b", "c", "b"]
    assert circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


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


@functools.cache
def arrows(path: Path) -> frozenset[tuple[str, str]]:
    """The file's module with each module of the library that it imports."""
    own = module_of(path)
    others = {module_of_import(name) for name in imports(path)} - {own, None}
    return frozenset((own, other) for other in others if other is not None)


def imports(path: Path, source: str | None = None) -> Iterator[str]:
    """The full dotted names of everything that a file imports, also inside functions, under TYPE_CHECKING and by `import_module`."""
    for node in ast.walk(ast.parse((ROOT / path).read_text() if source is None else source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = parent_package(path, node.level) if node.level else []
            yield from (".".join([*package, *filter(None, [node.module]), alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and is_import_function(node.func) and node.args:
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if isinstance(name, str):
                dots = len(name) - len(name.lstrip("."))
                yield ".".join([*parent_package(path, dots), name.lstrip(".")]) if dots else name


def is_import_function(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    return name in ("import_module", "__import__")


def parent_package(path: Path, level: int) -> list[str]:
    """What the leading dots of a relative import stand for."""
    folders = ["fxkernels", *path.parts[:-1]] if path.parts[0] == "passes" else list(path.parts[:-1])
    return folders[: len(folders) - level + 1]


def module_of(path: Path) -> str:
    """The dotted name of a file of the library."""
    folders = [*(["fxkernels"] if path.parts[0] == "passes" else []), *path.with_suffix("").parts]
    return ".".join(folders[:-1] if folders[-1] == "__init__" else folders)


@functools.cache
def library() -> frozenset[str]:
    """The modules of the library."""
    return frozenset(module_of(path) for path in SOURCES)


def module_of_import(name: str) -> str | None:
    """The module of the library that an import reads, which for an attribute is the one that has it; None for imports from outside."""
    while name and name not in library():
        name = name.rpartition(".")[0]
    return name or None


def circle_in(below: Mapping[str, Set[str]]) -> list[str]:
    """A circle among these arrows, from a module to itself; empty if there is none."""
    finished: set[str] = set()

    def walk(way: list[str]) -> list[str]:
        for other in sorted(below[way[-1]] - finished):
            found = [*way[way.index(other) :], other] if other in way else walk([*way, other])
            if found:
                return found
        finished.add(way[-1])
        return []

    return next(filter(None, (walk([module]) for module in sorted(below) if module not in finished)), [])


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


def room_of(module: str) -> str:
    """The file or folder of fxkernels/ that a module is in; ``__init__`` for the package itself. capture/_torch/ is a room of its own."""
    parts = module.split(".")
    return "_torch" if parts[1:3] == ["capture", "_torch"] else parts[1] if len(parts) > 1 else "__init__"
