"""`module:factory` targets of the commands, and the report of a model that a factory returns."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fxkernels.cli import main

TESTS = Path(__file__).parent.parent

FACTORIES = f"""
import sys
import torch
from torch import nn
from fxkernels.demo_model import decoder

class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
    def forward(self, x, *, scale=1.0):
        return x * self.weight * scale

def build():
    return decoder(length=16, layers=2)

def in_training_mode():
    model, args = build()
    return model.train(), args

def by_keyword():
    return Norm(), {{"x": torch.ones(2, 4), "scale": 2.0}}

def mapped():
    sys.path.insert(0, {str(TESTS)!r})
    from kernel_repositories import repository
    from fxkernels import register_kernel_mapping
    register_kernel_mapping({{"RMSNorm": {{"cpu": repository("norms", "RMSNorm")}}}})
    return build()

def raises():
    raise RuntimeError("the weights are not here")

def raises_deep():
    nn.Linear(2, 2)(torch.ones(3))

def exits():
    sys.exit("no weights")

def of_size(size):
    return Norm(), (torch.ones(size),)

def misfit():
    return Norm(), (torch.ones(2, 5),)

class Nested:
    build = staticmethod(build)

only_a_model = lambda: Norm()
a_triple = lambda: (Norm(), (), {{}})
no_module = lambda: (len, (1,))
bare_tensor = lambda: (Norm(), torch.ones(4))
number_keys = lambda: (Norm(), {{0: 1}})
number = 3
"""

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs the command line in a folder that has the module `factories`."""
    (tmp_path / "factories.py").write_text(FACTORIES)
    (tmp_path / "half.py").write_text("import torch\nimport a_package_that_is_not_there\n")
    (tmp_path / "failing.py").write_text("value = 1\nvalue / 0\n")
    (tmp_path / "unreadable.py").write_text("def build(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def run_(*arguments: str, **options: object) -> Result:
        return CliRunner(env={"COLUMNS": "80"}).invoke(main, list(arguments), **options)  # type: ignore[arg-type]

    yield run_
    for name in set(sys.modules) - before:
        if name in ("factories", "half", "failing", "unreadable"):
            del sys.modules[name]


def test_explain_prints_the_report_of_a_factory_in_the_current_directory(run: Run) -> None:
    result = run("explain", "factories:build")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("factories:build: Decoder in eval mode, as the factory returned it\n")
    assert "layers.{0..1}.input_layernorm x2" in result.stdout
    assert "7 of 9 layer calls rewritten" in result.stdout
    assert result.stderr == ""


def test_explain_without_the_builtin_kernels_uses_what_is_registered_and_nothing_else(run: Run) -> None:
    assert "0 of 9 layer calls rewritten (no_mapping x9)" in run("explain", "factories:build", "--no-builtin").stdout
    assert "5 of 9 layer calls rewritten (no_mapping x4)" in run("explain", "factories:mapped", "--no-builtin").stdout


def test_a_kernel_that_the_module_registers_comes_before_the_builtin_one(run: Run) -> None:
    out = run("explain", "factories:mapped").stdout
    assert "norms:RMSNorm" in out
    assert "rmsnorm:RMSNorm" not in out
    assert "rotary:rotary_pos_emb" in out


@pytest.mark.slow
def test_explain_sets_the_mode_that_is_asked_for(run: Run) -> None:
    assert "Decoder in training mode\n" in run("explain", "factories:build", "--mode", "training").stdout
    assert "Decoder in eval mode\n" in run("explain", "factories:in_training_mode", "--mode", "inference").stdout
    assert "Decoder in training mode, as the factory returned it\n" in run("explain", "factories:in_training_mode").stdout


def test_a_dict_of_arguments_is_given_by_keyword_and_a_model_without_annotated_layers_is_no_error(run: Run) -> None:
    result = run("explain", "factories:by_keyword")
    assert result.exit_code == 0, result.output
    assert "no annotated layer was called" in result.stdout


def test_a_factory_may_be_an_attribute_of_a_class(run: Run) -> None:
    assert run("explain", "factories:Nested.build").exit_code == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("factories", "'factories' names no factory; write module:factory"),
        ("factories:", "write module:factory"),
        (":build", "write module:factory"),
        ("no_such_module:build", "there is no module 'no_such_module'"),
        ("factories.py:build", "name the module, not its file: factories"),
        ("half:build", "'half' cannot be imported: ModuleNotFoundError: No module named 'a_package_that_is_not_there'"),
        ("failing:build", "'failing' cannot be imported: ZeroDivisionError: division by zero (at FOLDER/failing.py:2)"),
        ("unreadable:build", "'unreadable' cannot be imported: SyntaxError: invalid syntax (unreadable.py, line 1)"),
        ("factories:biuld", "factories has no 'biuld'; did you mean build"),
        ("factories:number", "factories:number is an object of type int, not a function"),
        ("factories:of_size", "must be callable without arguments: missing a required argument: 'size'"),
        ("factories:raises", "factories:raises raised RuntimeError: the weights are not here (at FOLDER/factories.py:LINE)"),
        ("factories:raises_deep", "torch/nn/modules/linear.py"),
        ("factories:exits", "factories:exits raised SystemExit: no weights"),
        ("factories:only_a_model", "for example (model, (input_ids,)); it returned an object of type Norm"),
        ("factories:a_triple", "it returned a tuple of 3"),
        ("factories:no_module", "the model must be a torch.nn.Module, and it is an object of type builtin_function_or_method"),
        ("factories:bare_tensor", "they are an object of type Tensor: a single argument x is given as (x,)"),
        ("factories:number_keys", "and 0 is no name"),
        ("factories:misfit", "raised when it was called with the example arguments: RuntimeError: The size of tensor a (5)"),
    ],
)
def test_an_unusable_factory_is_one_paragraph_on_stderr_and_exit_code_2(run: Run, tmp_path: Path, name: str, message: str) -> None:
    result = run("explain", name)
    assert result.exit_code == 2
    line = FACTORIES.splitlines().index('    raise RuntimeError("the weights are not here")') + 1
    assert message.replace("FOLDER", str(tmp_path)).replace("LINE", str(line)) in result.stderr
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_the_traceback_is_shown_on_request(run: Run) -> None:
    result = run("explain", "factories:raises", "--traceback")
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.stderr
    assert "def raises" not in result.stderr.splitlines()[-1]
    assert result.stderr.splitlines()[-1].startswith("Error: factories:raises raised")


@pytest.mark.slow
def test_explain_in_a_pipe_is_plain_text_within_80_columns(tmp_path: Path) -> None:
    (tmp_path / "factories.py").write_text(FACTORIES)
    inherited = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "FORCE_COLOR")}
    environment = inherited | {"PYTHONPATH": str(TESTS.parent), "LC_ALL": "C"}
    command = [sys.executable, "-m", "fxkernels", "explain", "factories:mapped", "--mode", "training"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "norms:RMSNorm" in result.stdout
