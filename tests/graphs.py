"""Graphs with layer calls, built by hand in the shape in which capture leaves them.

Example:
    >>> build = GraphBuilder()
    >>> x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    >>> with build.layer("norm", x, tensors={"weight": weight}) as call:
    ...     call.returns(build(torch.mul, build(torch.rsqrt, x), weight))
    >>> found = only_call(build.finish(call.output))
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.node import map_arg

from fxkernels.passes.effects import name_of
from fxkernels.passes.layer_call import CallSite, LayerCall
from fxkernels.passes.markers import SITE, enter, erase_markers, find_marked_calls, leave
from fxkernels.passes.miss import Miss
from fxkernels.passes.plan import Decision, Plan, Replacement, plan_rewrites
from fxkernels.passes.reference import reference_of
from fxkernels.passes.region import external_inputs, why_not_replaceable
from fxkernels.passes.rewrite import rewrite


class OpenLayer:
    """A layer call whose region is being built. One that is not told what it returns has lost its end."""

    def __init__(self) -> None:
        self.outputs: tuple[fx.Node, ...] | None = None

    @property
    def output(self) -> fx.Node:
        """What the call returns, if it is one tensor."""
        assert self.outputs is not None
        (output,) = self.outputs
        return output

    def returns(self, *outputs: fx.Node) -> None:
        """Say which tensors come out of the call."""
        self.outputs = outputs


class GraphBuilder:
    """Appends nodes to a graph and computes their example values, as capture does.

    Args:
        markers: Whether layer calls are marked. Without, it is the graph that nobody has bracketed.
    """

    def __init__(self, *, markers: bool = True) -> None:
        self.graph = fx.Graph()
        self.root = torch.nn.Module()
        self._markers = markers
        self._fake = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
        self._stack: dict[str, tuple[str, type]] = {}

    def tensor(self, name: str, *shape: int, dynamic: bool = False, requires_grad: bool = False) -> fx.Node:
        """Append an input. A dynamic one has symbolic sizes of its own."""
        return self._input(name, self._fake.from_tensor(torch.empty(*shape, requires_grad=requires_grad), static_shapes=not dynamic))

    def constant(self, name: str, value: torch.Tensor) -> fx.Node:
        """Append the read of a constant of the graph."""
        setattr(self.root, name, value)
        node = self.graph.get_attr(name)
        node.meta["example_value"] = self._fake.from_tensor(value)
        return node

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Append the call of a function."""
        return self._computed(self.graph.call_function(function, args, kwargs), function)

    def method(self, name: str, *args: Any, **kwargs: Any) -> fx.Node:
        """Append the call of a method of the first argument."""
        return self._computed(self.graph.call_method(name, args, kwargs), lambda this, *rest, **more: getattr(this, name)(*rest, **more))

    @contextmanager
    def layer(self, path: str, *args: Any, tensors: dict[str, Any] | None = None, name: str = "Layer", **site: Any) -> Iterator[OpenLayer]:
        """Mark a layer call around what is built inside; `site` goes to its `CallSite`."""
        marked_site = CallSite(path=path, layer_name=name, layer=name, **site)
        outside, self._stack = self._stack, {**self._stack, path: (path, torch.nn.Module)}
        self._mark(enter, (args, {}, tensors or {}), marked_site)
        call = OpenLayer()
        yield call
        if call.outputs is not None:
            self._mark(leave, (call.outputs,), marked_site)
        self._stack = outside

    def finish(self, *outputs: fx.Node) -> fx.Graph:
        """Append the graph's output and return the graph."""
        self.graph.output(outputs)
        return self.graph

    def module(self, *outputs: fx.Node) -> fx.GraphModule:
        """Append the graph's output and return a module that runs the graph."""
        return fx.GraphModule(self.root, self.finish(*outputs))

    def _input(self, name: str, value: Any) -> fx.Node:
        node = self.graph.placeholder(name)
        node.meta["example_value"] = value
        return node

    def _mark(self, marker: Callable[..., None], args: tuple[Any, ...], site: CallSite) -> None:
        if self._markers:
            self.graph.call_function(marker, args).meta[SITE] = site

    def _computed(self, node: fx.Node, function: Callable[..., Any]) -> fx.Node:
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: n.meta.get("example_value"))
        with self._fake:
            node.meta["example_value"] = function(*args, **kwargs)
        node.meta["stack_trace"] = f"the line of {node.name}"
        node.meta["nn_module_stack"] = dict(self._stack)
        return node


def norm_operations(build: GraphBuilder, x: fx.Node, weight: fx.Node, eps: float = 1e-6) -> fx.Node:
    """Append a norm as models spell it, eight operations."""
    wide = build.method("to", x, torch.float32)
    variance = build.method("mean", build.method("pow", wide, 2), -1, keepdim=True)
    scaled = build(operator.mul, wide, build(torch.rsqrt, build(operator.add, variance, eps)))
    return build(operator.mul, weight, build.method("to", scaled, torch.float32))


def norm_call(build: GraphBuilder, path: str, x: fx.Node, weight: fx.Node, eps: float = 1e-6) -> fx.Node:
    """Append the marked call of a norm layer and return its output."""
    with build.layer(path, x, tensors={"weight": weight}, name="RMSNorm") as call:
        call.returns(norm_operations(build, x, weight, eps))
    return call.output


def miss_of(operations: Callable[[GraphBuilder, fx.Node], fx.Node]) -> Miss | None:
    """Return why a layer that does these operations on its one argument cannot be replaced."""
    build = GraphBuilder()
    x = build.tensor("x", 4, 8)
    with build.layer("layer", x) as layer:
        layer.returns(operations(build, x))
    return why_not_replaceable(only_call(build.finish(layer.output)))


def code(miss: Miss | None) -> str | None:
    """Return the miss's code."""
    return miss.code if miss is not None else None


def then(node: fx.Node, _: fx.Node) -> fx.Node:
    """Return the first node; the second is done for its effect."""
    return node


def calls_of(graph: fx.Graph) -> tuple[LayerCall, ...]:
    """Return the layer calls of a graph, and erase the markers that were around them."""
    calls = find_marked_calls(graph)
    erase_markers(graph)
    return calls


def only_call(graph: fx.Graph) -> LayerCall:
    """Return the one layer call of a graph."""
    (call,) = calls_of(graph)
    return call


class RunsReference:
    """A kernel that computes what the region computed."""

    def __init__(self, call: LayerCall, owner: fx.GraphModule) -> None:
        self._reference = reference_of(call, owner)
        self.__name__ = self.__qualname__ = "kernel"
        self.__module__ = __name__

    def __call__(self, *inputs: Any) -> Any:
        outputs = self._reference(*inputs)
        return outputs[0] if len(outputs) == 1 else outputs


def replaced(call: LayerCall, owner: fx.GraphModule) -> Decision:
    """The decision to put such a kernel in the place of the call."""
    return Decision("rewritten", replacement=Replacement(RunsReference(call, owner), external_inputs(call)))


def kept(call: LayerCall, conflict: Miss | None = None) -> Decision:
    """The decision to leave a call alone."""
    return Decision("excluded")


def rewrite_calls(module: fx.GraphModule, *paths: str) -> Plan:
    """Rewrite the calls of these paths in a module, and erase all markers."""

    def decide(call: LayerCall, conflict: Miss | None) -> Decision:
        return replaced(call, module) if call.site.path in paths and conflict is None else kept(call)

    plan = plan_rewrites(calls_of(module.graph), decide)
    rewrite(plan)
    module.graph.lint()
    module.recompile()
    return plan


def computing(graph: fx.Graph) -> list[str]:
    """Names of the nodes that compute something, in order."""
    return [node.name for node in graph.nodes if node.op not in ("placeholder", "output") and node.target not in (enter, leave)]


def text(graph: fx.Graph) -> str:
    """The nodes that compute something as lines of code, in order, e.g. ``mul_1 = mul(weight, to_1)``."""
    nodes = [named(graph, name) for name in computing(graph)]
    return "\n".join(f"{node.name} = {name_of(node)}({', '.join(map(str, node.args))})" for node in nodes)


def named(graph: fx.Graph, name: str) -> fx.Node:
    """Return the node of this name."""
    (node,) = (node for node in graph.nodes if node.name == name)
    return node


def call_of(graph: fx.Graph, path: str, args: tuple[fx.Node, ...], region: tuple[fx.Node, ...], *outputs: fx.Node) -> LayerCall:
    """Return a layer call that no marker surrounds, as a pattern finds it."""
    return LayerCall(CallSite(path, "Layer", "Layer"), 0, graph, args, region=region, outputs=outputs)
