"""Decorators of transformers and of the `kernels` package that did nothing: what they say is read from the source."""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import os
import py_compile
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from fxkernels import hubkernels, kernelize, replace_kernel_forward_from_hub
from fxkernels.annotate import Annotation, annotated_forward, annotation_of, layer_name_of
from fxkernels.annotations_in_source import annotation_among, definitions_in


def wrapped_function(module: nn.Module) -> FunctionType | None:
    """The function that the `kernels` package has turned into a module, if it has: its forward has closed over it."""
    cells: Any = type(module).forward.__closure__ or ()
    return next((cell.cell_contents for cell in cells if isinstance(cell.cell_contents, FunctionType)), None)


SILENT = """\
import functools
from torch import nn

try:  # a place where no version of the package has it, so that this fails with and without the package
    from kernels.elsewhere import use_kernel_forward_from_hub, use_kernel_func_from_hub
except ImportError:
    def use_kernel_forward_from_hub(*args, **kwargs):
        return lambda decorated: decorated

    use_kernel_func_from_hub = use_kernel_forward_from_hub

"""

Write = Callable[..., ModuleType]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes and imports a module whose decorators do nothing."""
    monkeypatch.syspath_prepend(tmp_path)
    names: list[str] = []

    def write(source: str, name: str = "", *, begin: str = SILENT) -> ModuleType:
        name = name or f"silent_{len(names)}_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(begin + textwrap.dedent(source))
        names.append(name)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield write
    for name in names:
        sys.modules.pop(name, None)


NORM = """
@use_kernel_forward_from_hub("RMSNorm")
class Norm(nn.Module):
    def forward(self, x):
        return x

class Same(Norm):
    pass

class Own(Norm):
    def forward(self, x):
        return -x

class Plain(nn.Module):
    def forward(self, x):
        return x
"""


def test_layer_name_of_a_class_is_read_with_its_place_and_the_class_stays_as_it_is(write: Write) -> None:
    module = write(NORM)
    before = dict(vars(module.Norm))
    line = 1 + (SILENT + NORM).splitlines().index('@use_kernel_forward_from_hub("RMSNorm")')
    assert annotation_of(module.Norm()) == Annotation("RMSNorm", source=f"{module.__file__}:{line}")
    assert annotated_forward(module.Norm()) is module.Norm.forward
    assert dict(vars(module.Norm)) == before


def test_subclasses_are_what_they_are_with_an_annotation_that_is_an_attribute(write: Write) -> None:
    module = write(NORM)
    assert annotated_forward(module.Same) is module.Norm.forward
    assert (layer_name_of(module.Own), annotated_forward(module.Own)) == ("RMSNorm", None)
    assert (layer_name_of(module.Plain), annotated_forward(module.Plain)) == (None, None)

    class Elsewhere(module.Own):  # type: ignore[name-defined,misc]
        pass

    assert (layer_name_of(Elsewhere), annotated_forward(Elsewhere)) == ("RMSNorm", None)


def test_class_made_at_run_time_under_the_same_name_is_a_subclass(write: Write) -> None:
    module = write(NORM)
    names = {"__module__": module.__name__, "__qualname__": "Norm", "forward": lambda self, x: x}
    assert annotated_forward(type("Norm", (module.Norm,), names)) is None


@pytest.mark.parametrize("decorator", ["use_kernel_forward_from_hub", "use_kernel_func_from_hub"])
def test_layer_name_of_a_function_is_read(write: Write, decorator: str) -> None:
    module = write(f"@{decorator}('turn')\ndef turn(x):\n    return -x\n\ndef other(x):\n    return x\n")
    assert layer_name_of(module.turn) == "turn"
    assert annotated_forward(module.turn) is module.turn
    assert annotated_forward(module.other) is None


def test_wrapper_around_an_annotated_function_is_not_the_annotated_function(write: Write) -> None:
    module = write("@use_kernel_forward_from_hub('turn')\ndef turn(x):\n    return -x\n")

    @functools.wraps(module.turn)
    def twice(x: Any) -> Any:
        return 2 * module.turn(x)

    assert annotated_forward(twice) is None
    module.turn, original = twice, module.turn
    assert annotated_forward(twice) is None
    assert annotated_forward(original) is original


def test_annotated_wrapper_is_the_annotated_function_and_what_it_wraps_is_not(write: Write) -> None:
    module = write("""
        def logged(function):
            @functools.wraps(function)
            def wrapper(x):
                return function(x)
            return wrapper

        @use_kernel_forward_from_hub("turn")
        @logged
        def turn(x):
            return -x

        @logged
        @use_kernel_forward_from_hub("bend")
        def bend(x):
            return -x
        """)
    assert layer_name_of(module.turn) == "turn"
    assert layer_name_of(inspect.unwrap(module.turn)) is None
    assert layer_name_of(module.bend) is None
    assert layer_name_of(inspect.unwrap(module.bend)) == "bend"


def test_classes_and_functions_inside_of_others_are_read(write: Write) -> None:
    module = write("""
        def make():
            @use_kernel_forward_from_hub("local")
            class Local(nn.Module):
                def forward(self, x):
                    return x

            @use_kernel_forward_from_hub("turn")
            def turn(x):
                return -x

            return Local, turn

        class Holder:
            @use_kernel_forward_from_hub("inner")
            class Inner(nn.Module):
                scale = 2
        """)
    assert [layer_name_of(each) for each in (*module.make(), module.Holder.Inner)] == ["local", "turn", "inner"]


def test_of_two_definitions_under_one_name_it_is_the_one_that_was_made(write: Write) -> None:
    module = write("""
        if len("yes") == 2:
            @use_kernel_forward_from_hub("first")
            class Norm(nn.Module):
                def forward(self, x):
                    return x
        elif True:
            @use_kernel_forward_from_hub("second")
            class Norm(nn.Module):
                def forward(self, x):
                    return x

        @use_kernel_forward_from_hub("turn")
        def turn(x):
            return -x

        annotated = turn

        def turn(x):
            return x
        """)
    assert layer_name_of(module.Norm) == "second"
    assert [layer_name_of(module.annotated), layer_name_of(module.turn)] == ["turn", None]


def test_decorators_are_those_that_the_module_imports_whatever_it_calls_them(write: Write) -> None:
    module = write(
        """
        from torch import nn
        from types import SimpleNamespace

        try:
            import kernels.elsewhere as library
        except ImportError:
            def use_kernel_forward_from_hub(name):
                return lambda decorated: decorated

            library = SimpleNamespace(use_kernel_forward_from_hub=use_kernel_forward_from_hub)

        @library.use_kernel_forward_from_hub("RMSNorm")
        class Norm(nn.Module):
            def forward(self, x):
                return x
        """,
        begin="",
    )
    assert layer_name_of(module.Norm) == "RMSNorm"


def test_another_decorator_of_the_same_name_says_nothing(write: Write) -> None:
    own = SILENT.replace("from kernels.elsewhere import", "from other_kernels import")
    assert layer_name_of(write(NORM, begin=own).Norm) is None


def test_an_attribute_comes_before_the_source(write: Write) -> None:
    module = write(NORM)
    replace_kernel_forward_from_hub(module.Norm, "Mine")
    assert annotation_of(module.Norm) == Annotation("Mine")
    module.Norm.kernel_layer_name = None
    assert annotation_of(module.Norm) is None
    assert annotated_forward(module.Same) is None


def test_source_is_read_once_and_again_after_a_reload(write: Write) -> None:
    module = write(NORM + "\n@use_kernel_forward_from_hub('turn')\ndef turn(x):\n    return -x\n")
    assert layer_name_of(module.Norm) == "RMSNorm"
    file = Path(str(module.__file__))
    text = file.read_text()
    file.unlink()
    assert layer_name_of(module.turn) == "turn"
    file.write_text("# moved\n" + text.replace('"RMSNorm"', '"LayerNorm"'))
    importlib.reload(module)
    assert layer_name_of(module.Norm) == "LayerNorm"


def test_without_source_a_warning_says_so_once(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    module = write(NORM)
    file = Path(str(module.__file__))
    py_compile.compile(str(file), cfile=str(file.with_suffix(".pyc")))
    file.unlink()
    del sys.modules[module.__name__]
    importlib.invalidate_caches()
    compiled = importlib.import_module(module.__name__)
    with caplog.at_level(logging.WARNING, "fxkernels"):
        assert [layer_name_of(compiled.Norm), layer_name_of(compiled.Plain)] == [None, None]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"the decorators in {module.__name__} annotate nothing, and they cannot be read: its source is not there; "
        "use_kernel_forward_from_hub and replace_kernel_forward_from_hub of fxkernels always annotate"
    )


@pytest.mark.parametrize(
    ("decorator", "said"),
    [
        ("use_kernel_forward_from_hub(str('RMSNorm'))", "the layer name at"),
        ("use_kernel_forward_from_hub('RMSNorm', condition=bool)", "the condition at"),
    ],
)
def test_what_only_running_it_would_tell_is_a_warning(write: Write, caplog: pytest.LogCaptureFixture, decorator: str, said: str) -> None:
    module = write(f"@{decorator}\nclass Norm(nn.Module):\n    def forward(self, x):\n        return x\n")
    with caplog.at_level(logging.WARNING, "fxkernels"):
        assert annotation_of(module.Norm) is None
    assert said in caplog.text
    assert f"{module.__file__}:{len(SILENT.splitlines()) + 1}" in caplog.text


def test_a_program_that_is_run_by_its_name_has_source_too(tmp_path: Path) -> None:
    report = "\nfrom fxkernels.annotate import layer_name_of\nprint(__name__, layer_name_of(Norm))\n"
    (tmp_path / "program.py").write_text(SILENT + NORM + report)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    for command in (["program.py"], ["-m", "program"]):
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == "__main__ RMSNorm\n"


def test_decorators_that_work_are_not_read(write: Write) -> None:
    pytest.importorskip("kernels.layer")
    module = write(
        """
        from kernels import use_kernel_forward_from_hub

        def make():
            @use_kernel_forward_from_hub("turn")
            def turn(x):
                return -x
            return turn
        """,
        begin="",
    )
    turn = module.make()
    assert annotation_of(turn) is not None
    function = wrapped_function(turn)
    assert function is not None
    assert annotation_of(function) is None
    assert annotation_among(definitions_in(module, silent_only=False), function) is not None


MODEL = """
from torch import nn

@use_kernel_forward_from_hub("RMSNorm")
class Norm(nn.Module):
    def forward(self, x):
        return x * x.pow(2).mean(-1, keepdim=True).rsqrt()

@use_kernel_forward_from_hub("turn")
def turn(x):
    return -x

class Attention(nn.Module):
    def forward(self, x):
        return turn(x) + 1

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.attention, self.unused = Norm(), Attention(), Norm()

    def forward(self, x):
        return self.attention(self.norm(x))
"""


@pytest.mark.parametrize("way", ["backend", "dynamo", "symbolic"])
def test_the_report_says_where_each_call_is_annotated(write: Write, way: str) -> None:
    module, x = write(MODEL), torch.randn(2, 8)
    model = module.Model()
    if way == "backend":
        backend = hubkernels(inner="eager", mapping={})
        torch.testing.assert_close(torch.compile(model, backend=backend)(x), model(x), rtol=0, atol=0)
        report = backend.report
    else:
        copy = kernelize(model, mapping={}, capture=way, device="cpu")
        torch.testing.assert_close(copy(x), model(x), rtol=0, atol=0)
        report = copy.report
    lines = Path(str(module.__file__)).read_text().splitlines()
    found = {call.key: lines[int(call.annotation.removeprefix(f"{module.__file__}:")) - 1] for call in report.calls}
    norm, turn = (f'@use_kernel_forward_from_hub("{name}")' for name in ("RMSNorm", "turn"))
    assert found == {"norm#0": norm, "attention.turn#0": turn, "unused#0": norm}


# --- transformers -----------------------------------------------------------------------------------------------------------------------

_DECORATOR = re.compile(r"^@use_kernel_(?:forward|func)_from_hub(?:_with_fallback)?\(\s*\"(\w+)\"", re.MULTILINE)
_DEFINED = re.compile(r"^(?:class|def) (\w+)", re.MULTILINE)


def annotated_in_text(text: str) -> dict[str, str]:
    """The layer names of what is annotated, by the name of the definition that comes next in the text."""
    found = {}
    for match in _DECORATOR.finditer(text):
        defined = _DEFINED.search(text, match.end())
        assert defined is not None
        found[defined[1]] = match[1]
    return found


def annotated_files() -> dict[str, str]:
    """The modules of transformers with annotations, and their text. Modular files are what the modeling files are generated from."""
    transformers = pytest.importorskip("transformers")
    root = Path(transformers.__file__).parent
    texts = {path.relative_to(root.parent): path.read_text() for path in root.rglob("*.py") if not path.name.startswith("modular_")}
    return {".".join(path.with_suffix("").parts): text for path, text in texts.items() if _DECORATOR.search(text)}


def check_module(name: str, text: str) -> int:
    """Compare what is read with what the text says, and with the attributes where the decorators are live; return how many there are."""
    module = importlib.import_module(name)
    definitions = definitions_in(module, silent_only=False)
    read, live = {}, {}
    for value in vars(module).values():
        function = wrapped_function(value) if isinstance(value, nn.Module) else None
        target = function or value
        if not isinstance(target, type | FunctionType) or target.__module__ != name:
            continue
        annotation = annotation_among(definitions, target)
        if annotation is not None:
            read[target.__name__] = annotation.layer_name
        own = vars(type(value) if function is not None else target).get("kernel_layer_name")
        if own is not None:
            live[target.__name__] = own
    assert read == annotated_in_text(text), name
    if live:
        assert read == live, name
    else:
        named = {each: annotation_of(getattr(module, each)) for each in read}
        assert {each: found and found.layer_name for each, found in named.items()} == read, name
        assert all(found is not None and found.source.startswith(f"{module.__file__}:") for found in named.values()), name
    return len(read)


@pytest.mark.parametrize("model", ["llama", "qwen3_next", "mamba2"])
def test_what_is_read_is_what_the_source_says_and_what_live_annotations_say(model: str) -> None:
    name = f"transformers.models.{model}.modeling_{model}"
    assert check_module(name, annotated_files()[name]) >= 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_is_read_of_every_architecture_is_what_the_source_and_live_annotations_say() -> None:
    files = annotated_files()
    assert len(files) > 150
    assert sum(check_module(name, text) for name, text in files.items()) > 300
