"""Names of operators and keys of their entries: equal in every process for equal kernels and calls, so that compilers' caches hit."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import fx

from ..layer import KernelLayer
from ..stand_in import LayerState

_METADATA = "metadata.json"
_LARGEST_CONSTANT = 1 << 20
_unique = itertools.count()
_UNSTABLE = " of this process)"


def digest(*parts: str) -> str:
    """Return a short hash of the parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def hash_of(parts: Mapping[str, object]) -> str | None:
    """Return a hash of named values, which are JSON; None if one of them is not the same in every process.

    Args:
        parts: Everything on which a record depends, in the texts that the functions here make.
    """
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest() if is_stable(text) else None


def is_stable(text: str) -> bool:
    """Whether a text that was made here is the same in every process."""
    return _UNSTABLE not in text and " at 0x" not in text


def operator_name(kernel: KernelLayer, *parts: str) -> str:
    """Return a name that is equal exactly for equal kernels and parts: repository, commit (or the files' content), layer, variant."""
    identity = kernel.identity
    described = (identity.repository, state_of(kernel), identity.layer, str(identity.variant), *parts)
    return f"{identity.layer}_{digest(*described)}"


def state_of(kernel: KernelLayer) -> str:
    """Return the commit that the kernel comes from, or a hash of the content of its build where there is none."""
    identity = kernel.identity
    if identity.revision is not None and getattr(identity, "override", None) is None:
        return identity.revision
    return _content(kernel.cls)  # type: ignore[arg-type]  # a class can be hashed


@cache
def _content(cls: type) -> str:
    package = sys.modules.get(cls.__module__.partition(".")[0])
    file = getattr(package, "__file__", None)
    places = list(Path(file).parents)[:2] if file is not None else []  # older builds have a package inside of the variant's directory
    for directory in (place for place in places if (place / _METADATA).is_file()):
        found = hashlib.sha256()
        for path in sorted(directory.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                found.update(f"{path.relative_to(directory).as_posix()}\0".encode())
                with path.open("rb") as opened:
                    found.update(hashlib.file_digest(opened, "sha256").digest())
        return found.hexdigest()
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        return _once(f"{cls.__module__}.{cls.__qualname__}")


def text_of_state(state: LayerState) -> str:
    """Return what a kernel can know of a layer besides its tensors' values, as text."""
    constants = [(name, text_of_value(value)) for name, value in state.constants.items()]
    children = [(name, text_of_state(child)) for name, child in state.children.items()]
    return repr((state.cls.__module__, state.cls.__qualname__, state.tensors, constants, children))


def text_of_graph(module: fx.GraphModule) -> str:
    """Return the function that a graph computes, as text, without the names of its nodes and inputs."""
    numbers: dict[fx.Node, int] = {}
    lines = []
    for node in module.graph.nodes:
        numbers[node] = len(numbers)
        # A node that is nested in an argument is shown by its name in repr(), so the arguments are mapped to numbers first.
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: _Number(numbers[n]))
        target = _constant(module, str(node.target)) if node.op == "get_attr" else _text_of_target(node)
        lines.append(f"{node.op} {target} {text_of_value(args)} {text_of_value(kwargs)}")
    return "\n".join(lines)


def text_of_values(values: Sequence[Any]) -> str:
    """Return dtypes, devices, sizes and strides of example values as text; symbols are numbered in the order of their appearance."""
    symbols: dict[Any, str] = {}

    def size(value: Any) -> str:
        if not isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            return repr(value)
        expression = value.node.expr
        for symbol in sorted(expression.free_symbols, key=str):
            symbols.setdefault(symbol, f"d{len(symbols)}")
        return str(expression.xreplace({symbol: type(symbol)(name) for symbol, name in symbols.items()}))

    def text(value: Any) -> str:
        if not isinstance(value, torch.Tensor):
            return size(value)
        sizes, strides = [size(s) for s in value.shape], [size(s) for s in value.stride()]
        return f"{value.dtype} {value.device.type} {sizes} {strides} {value.requires_grad}"

    return "; ".join(map(text, values))


class _Number(int):
    def __repr__(self) -> str:
        return f"%{int(self)}"


def text_of_value(value: Any) -> str:
    """Return a constant as text. One whose repr is its address equals no other."""
    text = repr(value)
    return _once(text) if " at 0x" in text else text


def _text_of_target(node: fx.Node) -> str:
    if node.op == "placeholder":
        return "_"  # the name of an input depends on the frame that was captured
    if isinstance(node.target, str):
        return node.target if node.op in ("call_method", "output") else _once(node.target)
    module, name = getattr(node.target, "__module__", None), getattr(node.target, "__qualname__", None)
    if name is None or "<" in name:
        text = str(node.target)
        return _once(text) if " at 0x" in text else text
    return f"{module}.{name}"


def _constant(module: fx.GraphModule, target: str) -> str:
    value: Any = module
    for name in target.split("."):
        value = getattr(value, name)
    if isinstance(value, fx.GraphModule):
        return text_of_graph(value)
    if type(value) in (torch.Tensor, torch.nn.Parameter) and value.device.type == "cpu" and value.numel() <= _LARGEST_CONSTANT:
        return f"{value.dtype} {list(value.shape)} {digest(str(value.detach().flatten().tolist()))}"
    return _once(target)


def _once(text: str) -> str:
    """Text that equals no other: what cannot be described must not be taken for something else."""
    return f"{text} ({next(_unique)}{_UNSTABLE}"
