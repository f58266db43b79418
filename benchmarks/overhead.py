"""What does fxkernels cost besides the kernels themselves? One subcommand per question, one JSON line per row.

Times are those of the measuring thread, not of the wall clock: capture, guards and planning are Python in one thread, and a busy machine
should not show. A Llama of transformers with tiny tensors stands for real models.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import click
import torch
from measure import compare, print_row
from torch import Tensor, fx, nn
from torch.fx._lazy_graph_module import _LazyGraphModule

import fxkernels
from fxkernels import LocalLayerRepository
from fxkernels.fusion import patterns_of
from fxkernels.fusions import SHIPPED
from fxkernels.passes.matching import Matcher

REPOSITORIES = Path(__file__).parents[1] / "tests" / "repositories"
FOLDERS = {"RMSNorm": "norms", "SiLU": "activations", "rotary_pos_emb": "rotary"}

Mapping = dict[str, dict[str, Any]]


def everything_mapped() -> Mapping:
    """A kernel for every annotated call of Llama; plain torch."""
    return {name: {"cpu": LocalLayerRepository(REPOSITORIES / folder, layer_name=name)} for name, folder in FOLDERS.items()}


def llama(layers: int) -> nn.Module:
    """A Llama whose tensors are so small that everything but Python is free."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
    }
    model: nn.Module = LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, use_cache=False, **sizes)).eval()
    return model


INPUT = torch.arange(8)[None]


def calls_of(layers: int) -> Counter[str]:
    """The annotated calls of that Llama."""
    return Counter({"RMSNorm": 2 * layers + 1, "SiLU": layers, "rotary_pos_emb": layers})


def check_calls(report: Any, layers: int, mapped: bool) -> None:
    """Stop if a call was not bracketed, or not rewritten though all names are mapped: the row would measure something else."""
    found = Counter(call.layer_name for call in report.calls if call.status == ("rewritten" if mapped else "missed"))
    if found != calls_of(layers):
        raise click.ClickException(
            f"expected {dict(calls_of(layers))} to be {'rewritten' if mapped else 'bracketed'}, got {report.summary}"
        )


def seconds_of(function: Callable[[], object]) -> float:
    """Thread time of one call, after whatever garbage earlier calls have left is gone."""
    gc.collect()
    start = time.thread_time()
    function()
    return time.thread_time() - start


def least(functions: Sequence[Callable[[], object]], calls: int, batches: int = 60) -> list[float]:
    """Seconds per call of each function in the fastest of several batches, taken in turn: a short call is only ever disturbed upwards."""
    best = [float("inf")] * len(functions)
    for _ in range(batches):
        for position, function in enumerate(functions):
            start = time.thread_time()
            for _ in range(calls):
                function()
            best[position] = min(best[position], (time.thread_time() - start) / calls)
    return best


def compare_pairs(question: str, names: tuple[str, str], pair: Callable[[], Sequence[float]], runs: int) -> dict[str, Any]:
    """`compare` for two sides that are measured together: `pair` does one run of both."""
    waiting: list[float] = []

    def first() -> float:
        seconds, other = pair()
        waiting.append(other)
        return seconds

    return compare(question, {names[0]: first, names[1]: waiting.pop}, runs)


# --- capture ------------------------------------------------------------------------------------------------------------------------------


@click.group(help=__doc__)
def main() -> None:
    logging.getLogger("fxkernels").setLevel(logging.ERROR)  # that nothing is rewritten is on purpose here
    torch.set_num_threads(1)
    torch.manual_seed(0)


@main.command()
@click.option("--layers", default=16, show_default=True)
@click.option("--mapped", is_flag=True, help="Map kernels to all names, which adds guards and the rewriting of every call.")
@click.option("--runs", default=5, show_default=True)
def capture(layers: int, mapped: bool, runs: int) -> None:
    """First call of a freshly compiled Llama, with all its calls bracketed: hubkernels over "eager" against "eager". At most 1.1."""
    model = llama(layers)

    def ours() -> float:
        torch._dynamo.reset()
        reports: list[Any] = []

        def first_call() -> None:
            backend = fxkernels.hubkernels(inner="eager", mapping=everything_mapped() if mapped else {})
            with torch.no_grad():
                torch.compile(model, backend=backend)(INPUT)
            reports.append(backend.report)

        seconds = seconds_of(first_call)
        check_calls(reports[0], layers, mapped)
        return seconds

    def eager() -> float:
        torch._dynamo.reset()
        with torch.no_grad():
            return seconds_of(lambda: torch.compile(model, backend="eager")(INPUT))

    calls = calls_of(layers).total()
    print_row(
        compare(f"{layers}-layer Llama, {calls} calls {'rewritten' if mapped else 'bracketed'}", {"hubkernels": ours, "eager": eager}, runs)
    )


# --- guards -------------------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def noted_guards() -> Iterator[list[tuple[Any, dict[str, Any]]]]:
    """Yield a list that gets the guard manager of every frame compiled meanwhile, and the frame's local variables to check it on."""
    from torch._dynamo.guards import CheckFunctionManager

    found: list[tuple[Any, dict[str, Any]]] = []
    original = CheckFunctionManager.__init__

    def noting(self: Any, code: Any, output_graph: Any, *rest: Any, **more: Any) -> None:
        scope = dict(output_graph.local_scope)
        original(self, code, output_graph, *rest, **more)
        found.append((self.guard_manager, scope))

    CheckFunctionManager.__init__ = noting  # type: ignore[method-assign,assignment]
    try:
        yield found
    finally:
        CheckFunctionManager.__init__ = original  # type: ignore[method-assign]


def leaf_guards(manager: Any) -> Iterator[str]:
    """The kinds of all guards below a node of the guard tree."""
    yield from (type(guard).__name__ for guard in manager.get_leaf_guards())
    pairs = manager.get_key_value_managers().values() if hasattr(manager, "get_key_value_managers") else None
    for child in manager.get_child_managers() if pairs is None else filter(None, chain.from_iterable(pairs)):
        yield from leaf_guards(child)


@main.command()
@click.option("--layers", default=16, show_default=True)
@click.option("--mapped", is_flag=True, help="Map kernels to all names.")
@click.option("--kernelized", is_flag=True, help="Compare kernelize(model, capture='dynamo') instead of the backend.")
@click.option("--runs", default=5, show_default=True)
def guards(layers: int, mapped: bool, kernelized: bool, runs: int) -> None:
    """One evaluation of all guards of a compiled Llama against those that "eager" gets, each time after a fresh capture. At most 1.05."""
    model = llama(layers)
    mapping = everything_mapped() if mapped else {}
    kinds: dict[str, Counter[str]] = {}

    def ours() -> Any:
        if kernelized:
            return fxkernels.kernelize(model, capture="dynamo", mapping=mapping)
        return torch.compile(model, backend=fxkernels.hubkernels(inner="eager", mapping=mapping))

    def captured(name: str, compiled: Callable[[], Any]) -> Callable[[], bool]:
        with torch.no_grad(), noted_guards() as found:
            compiled()(INPUT)
        ((manager, scope),) = found  # one frame; a second one would be a graph break
        kinds[name] = Counter(leaf_guards(manager.root))
        return lambda: bool(manager.check(scope))

    def pair() -> list[float]:
        torch._dynamo.reset()  # once: it would make the guards of the first fail at the root
        sides = [captured("fxkernels", ours), captured("eager", lambda: torch.compile(model, backend="eager"))]
        with torch.no_grad():
            seconds = least(sides, 50)
            if not all(check() for check in sides):
                raise click.ClickException("the guards do not hold on the call that they were made for")
        return seconds

    names = ("fxkernels", "eager")
    row = compare_pairs("", names, pair, runs)
    counts = " and ".join(f"{kinds[name].total():,}" for name in names)
    what = f"{'kernelize' if kernelized else 'hubkernels'}, {'everything' if mapped else 'nothing'} mapped"
    row["question"] = f"{layers}-layer Llama, {what}: {counts} guards"
    row["more"] = dict(kinds["fxkernels"] - kinds["eager"])
    row["fewer"] = dict(kinds["eager"] - kinds["fxkernels"])
    print_row(row)


# --- planning -----------------------------------------------------------------------------------------------------------------------------


def marked_graph() -> fx.GraphModule:
    """The graph of a one-layer Llama as capture leaves it, with five layer calls between their markers."""
    from fxkernels.backend import HubKernels
    from fxkernels.options import Options
    from fxkernels.passes.pipeline import State

    kept: list[fx.GraphModule] = []

    class Capture(HubKernels):
        def rewrite(self, gm: fx.GraphModule, mode: str | None = None) -> State:
            kept.append(gm)
            return State(gm)

    torch._dynamo.reset()
    backend = Capture(Options.of(inner="eager", mapping=everything_mapped()))
    with torch.no_grad():
        torch.compile(llama(1), backend=backend)(INPUT)
    return kept[0]


def repeated(gm: fx.GraphModule, calls: int, backend: Any) -> fx.GraphModule:
    """A graph with so many layer calls for a backend: copies of `gm`, each with inputs, sites and example values of its own nodes."""
    from fxkernels.passes.markers import SITE, enter

    copies = calls // sum(node.target is enter for node in gm.graph.nodes)
    graph = fx.Graph()
    copied: list[dict[fx.Node, fx.Node]] = [{} for _ in range(copies)]
    sites: dict[tuple[int, int], Any] = {}
    for inputs in (True, False):  # a graph begins with all its inputs
        for number, nodes in enumerate(copied):
            for node in gm.graph.nodes:
                if node.op == "output" or (node.op == "placeholder") is not inputs:
                    continue
                nodes[node] = graph.node_copy(node, nodes.__getitem__)
                if inputs:
                    nodes[node].target = nodes[node].name  # the name of the parameter
                site = node.meta.get(SITE)
                if site is not None:  # the two markers of a call share one
                    own = sites.setdefault((number, id(site)), replace(site, path=f"copies.{number}.{site.path}", owner=backend))
                    nodes[node].meta[SITE] = own
    results = [nodes[node] for nodes in copied for node in gm.graph.output_node().all_input_nodes]
    graph.output(tuple(results))
    # As Dynamo makes them: the code is generated when somebody calls it, once, with or without us.
    return _LazyGraphModule(gm, graph)


def planning_and_rewriting(gm: fx.GraphModule, calls: int) -> float:
    """Seconds per call, by a backend that has seen nothing before: kernels are loaded and tried within that time."""
    backend = fxkernels.hubkernels(inner="eager", mapping=everything_mapped())
    graph = repeated(gm, calls, backend)
    seconds = seconds_of(lambda: backend.rewrite(graph))
    if len(backend.report.rewritten) != calls:
        raise click.ClickException(f"expected {calls} calls to be rewritten: {backend.report.summary}")
    return seconds / calls


@main.command()
@click.option("--calls", default="100,1000,10000", show_default=True, help="Multiples of five. The others are compared with the first.")
@click.option("--runs", default=5, show_default=True)
def planning(calls: str, runs: int) -> None:
    """Planning and rewriting, per call, of a graph with so many calls against one of the first size. At most 100 us."""
    gm = marked_graph()
    first, *others = (int(number) for number in calls.split(","))
    for number in others or [first]:
        sides: dict[str, Callable[[], float]] = {
            "per call": partial(planning_and_rewriting, gm, number),
            f"per call of {first}": partial(planning_and_rewriting, gm, first),
        }
        print_row(compare(f"graph of {number:,} layer calls", sides, runs))


# --- symbolic -----------------------------------------------------------------------------------------------------------------------------


@fxkernels.use_kernel_forward_from_hub("Scale")
class Scale(nn.Module):
    """A layer of one operation, and a parameter as most have one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Chain(nn.Module):
    """The layers, one after the other."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Scale() for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class SameScale(nn.Module):
    """The kernel layer: the same operation, so that what differs is how it is reached."""

    has_backward = True
    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class SameScaleRepository:
    """A repository that needs no files."""

    def load(self) -> type[nn.Module]:
        return SameScale


class LayersAsCalls(fx.Tracer):
    """`symbolic_trace`, but the layers stay calls of modules."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Scale)


@main.command()
@click.option("--layers", default=20, show_default=True)
@click.option("--runs", default=5, show_default=True)
def symbolic(layers: int, runs: int) -> None:
    """One layer call in a kernelized graph module against an unmodified `symbolic_trace` of it, with so many layers to a call."""
    model = Chain(layers).eval()
    kernelized = fxkernels.kernelize(model, capture="symbolic", mapping={"Scale": {"cpu": SameScaleRepository()}}, verify="off")
    traced = {"inlined": fx.symbolic_trace(model), "kept as modules": fx.GraphModule(model, LayersAsCalls().trace(model))}
    x = torch.ones(1)
    for kind, unmodified in traced.items():
        for grad in (False, True):

            def pair(grad: bool = grad, unmodified: nn.Module = unmodified) -> list[float]:
                with torch.set_grad_enabled(grad):
                    return [seconds / layers for seconds in least([lambda: kernelized(x), lambda: unmodified(x)], 50)]

            question = f"layers {kind} by symbolic_trace, {'with' if grad else 'without'} gradients"
            row = compare_pairs(question, ("kernelized", "symbolic_trace"), pair, runs)
            row["more"] = row["sides"]["kernelized"] - row["sides"]["symbolic_trace"]
            print_row(row)


# --- matching of fusions ------------------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--operations", default=10_000, show_default=True, help="The least number of operations of the graph.")
@click.option("--fusions", default=20, show_default=True)
@click.option("--runs", default=3, show_default=True)
def matching(operations: int, fusions: int, runs: int) -> None:
    """Looking for fusions in the graph of a Llama, against the capture of that graph by "eager". At most 0.05.

    The fusions are those that ship, from the first again where there are fewer; nothing that one finds is remembered for the next.
    """
    found = [patterns_of(fusion) for fusion, _ in zip(cycle(SHIPPED), range(fusions), strict=False)]
    small, large = (sum(1 for _ in captured_graph(llama(layers)).nodes) for layers in (1, 2))
    layers = 1 + -(-(operations - small) // (large - small))
    model = llama(layers)
    graph = captured_graph(model)

    def look() -> None:
        matcher = Matcher(graph, ())
        for patterns in found:
            matcher.find(patterns)

    def capturing() -> float:
        torch._dynamo.reset()
        with torch.no_grad():
            return seconds_of(lambda: torch.compile(model, backend="eager")(INPUT))

    question = f"{fusions} fusions in {len(graph.nodes)} operations of a {layers}-layer Llama"
    print_row(compare(question, {"matching": lambda: seconds_of(look), "capture": capturing}, runs))


def captured_graph(model: nn.Module) -> fx.Graph:
    """The graph that Dynamo makes of a call."""
    graphs: list[fx.Graph] = []

    def keep(gm: fx.GraphModule, _: list[Any]) -> Callable[..., Any]:
        graphs.append(gm.graph)
        return gm.forward

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(model, backend=keep, fullgraph=True)(INPUT)
    return graphs[0]


if __name__ == "__main__":
    main()
