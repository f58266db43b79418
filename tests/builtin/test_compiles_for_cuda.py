"""The built-in Triton kernels compile for a GPU, spill nothing, and can be traced into a graph. No GPU is needed: nothing is launched."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from builtin_cases import CASES, kernel_of, prepared, step, triton_repository
from functorch.compile import make_boxed_func
from torch import fx
from torch._dynamo.backends.common import aot_autograd

from fxkernels import hubkernels

triton = pytest.importorskip("triton")

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="Triton's interpreter compiles nothing")

DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int64: "i64"}
QUICK = ["RMSNorm", "rotary"]
EACH = pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES])


class Compiled:
    """Compiles what would be launched, with the arguments that it would get."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __call__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        options = {name: kwargs.pop(name) for name in ("num_warps",) if name in kwargs}
        values = {**dict(zip((p.name for p in function.params), args, strict=False)), **kwargs}
        signature, constants, attributes = {}, {}, {}
        for place, parameter in enumerate(function.params):
            value = values[parameter.name]
            kind = self._kind(value, parameter.is_constexpr)
            signature[parameter.name] = kind
            if kind == "constexpr":
                constants[(place,)] = value
            elif kind.startswith("*") or (isinstance(value, int) and value % 16 == 0):
                attributes[(place,)] = [["tt.divisibility", 16]]
        source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attributes)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        assert compiled.asm["cubin"]
        self.names.add(function.__name__)

    @staticmethod
    def _kind(value: Any, is_constant: bool) -> str:
        # Triton makes a constant of an integer that is one, and remembers which can be divided by 16.
        if is_constant or (type(value) is int and value == 1):
            return "constexpr"
        if isinstance(value, torch.Tensor):
            return "*" + DTYPES[value.dtype]
        return "fp32" if isinstance(value, float) else "i32" if -(2**31) <= value < 2**31 else "i64"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiled]:
    found = Compiled()

    def launcher(kernel: Any, grid: Any) -> Any:
        return lambda *args, **kwargs: found(kernel, args, kwargs)

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "__getitem__", launcher, raising=False)
    yield found
    assert found.names


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [96, 4096])
def test_forward_and_backward_compile_for_hopper(compiled, name, dtype, size):
    layer, arguments = prepared(CASES[name], dtype, rows=3, size=size if name != "linear cross entropy" else 96)
    kernel = kernel_of(CASES[name])
    step(lambda *values: kernel(layer, *values), layer, arguments)


@pytest.mark.parametrize("name", ["RMSNorm", pytest.param("RMSNorm gated by SiLU", marks=pytest.mark.slow), "LayerNorm"])
@pytest.mark.parametrize("size", [90, 4096])
def test_programs_that_take_several_tiles_compile_for_hopper(compiled, monkeypatch, name, size):
    layer, arguments = prepared(CASES[name], torch.bfloat16, rows=300, size=size)
    kernel = kernel_of(CASES[name])
    launches = sys.modules[kernel.__module__.replace(".layers", ".launches")]
    monkeypatch.setattr(launches, "configured", lambda *asked: asked[-1] | {"stages": 3, "programs": 2})
    step(lambda *values: kernel(layer, *values), layer, arguments)


class TargetOnly:
    """A Triton driver that knows a target and no device: enough for torch to ask Triton what a kernel writes."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


class Graphs:
    """A compiler that keeps the graphs, and computes zeros instead."""

    def __init__(self) -> None:
        self.graphs: list[fx.Graph] = []

    def __call__(self, module: fx.GraphModule, _: Any) -> Any:
        self.graphs.append(module.graph)
        (outputs,) = module.graph.find_nodes(op="output")[0].args
        values = [node.meta["val"] if isinstance(node, fx.Node) else None for node in outputs]
        return make_boxed_func(lambda *_: [_zero(value) for value in values])

    def copied(self) -> list[str]:
        """What the launches write into, of which Inductor has to see that nobody else needs it."""
        launches = [node for graph in self.graphs for node in graph.nodes if "triton_kernel_wrapper_functional" in str(node.target)]
        return [name for node in launches for name in node.kwargs["tensors_to_clone"]]


def _zero(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.zeros([int(size) for size in value.shape], dtype=value.dtype)
    return value if value is None else int(value)


@EACH
@pytest.mark.parametrize("dynamic", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_compiler_sees_its_launches_forward_and_backward(monkeypatch, name, dynamic):
    monkeypatch.setattr(triton.runtime.driver, "_active", TargetOnly())
    case, compiler = CASES[name], Graphs()
    layer, arguments = prepared(case, torch.float32, rows=5, size=40)
    mapping = {case.layer_name: {"cpu": triton_repository(case.layer_name)}}
    backend = hubkernels(mapping=mapping, inner=aot_autograd(fw_compiler=compiler, bw_compiler=compiler))
    step(torch.compile(layer, backend=backend, fullgraph=True, dynamic=dynamic), layer, arguments)
    assert [call.decisions[-1].lowering.name for call in backend.report.rewritten] == ["triton"], str(backend.report)
    written = compiler.copied()
    assert written
    assert not {"x", "q", "k", "grad", "weight", "gate", "targets"} & set(written)
