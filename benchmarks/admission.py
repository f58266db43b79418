"""What does it cost to have kernels prove themselves? One subcommand per question, one JSON line per row. Times are of the wall clock."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from measure import compare, per_call, print_row
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # for the kernel repositories and layers of the tests

from hazard_probe_cases import norm_probe_case
from kernel_repositories import repository
from layers import Stack

import fxkernels
from fxkernels.admission import Admitted, admit, forget_verdicts
from fxkernels.admission.probe_case import ProbeCase
from fxkernels.admission.worker import WORKER
from fxkernels.backend import HubKernels
from fxkernels.constraints import parse
from fxkernels.constraints.call_facts import CallFacts
from fxkernels.constraints.gate import check_conditions
from fxkernels.passes.layer_call import LayerCall
from fxkernels.passes.markers import erase_markers, find_marked_calls
from fxkernels.target import Target

CORRECT = "hazard-twins:RMSNorm"
SIZES = {"128 elements": (2, 8, 8), "1M elements": (1024, 1024), "8192x1024": (8192, 1024)}
CONSTRAINTS = (
    "dim(x, -1) % 8 == 0",
    "dim(x, -1) <= 8192",
    "dtype(x) in {float16, bfloat16, float32}",
    "stride(x, -1) == 1",
    "dtype(weight) == dtype(x)",
    "implies(ndim(x) == 3, dim(x, 1) > 0)",
)


def seconds_of(function: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def admitted(case: ProbeCase) -> None:
    """Ask for admission, and make sure of it."""
    found = admit(case, verify="probe")
    if not (isinstance(found, Admitted) and found.how == "probed"):
        raise click.ClickException(f"expected the kernel to be admitted: {found}")


@click.group()
def main() -> None:
    """Kernels prove themselves: in another process, once; then a record says that they have."""
    os.environ.pop("FXKERNELS_VERIFY", None)
    os.environ["FXKERNELS_CACHE"] = tempfile.mkdtemp()


@main.command()
@click.option("--runs", default=5, show_default=True)
def start(runs: int) -> None:
    """The start of the process that probes, against that of one that imports torch. Once for each process that compiles."""

    def child() -> None:
        WORKER.close()
        WORKER.ask(b"", 60.0)  # it answers that it cannot read this

    program = [sys.executable, "-c", "import torch"]
    sides = {"child": partial(seconds_of, child), "import torch": partial(seconds_of, partial(subprocess.run, program, check=True))}
    print_row(compare("start of a process", sides, runs))


@main.command()
@click.option("--runs", default=3, show_default=True)
def probe(runs: int) -> None:
    """A probe in a process that runs, forward and backward, against one forward and backward of the layer. At most a second."""
    for size, sizes in SIZES.items():
        for dtype in (torch.float32, torch.bfloat16):
            case = norm_probe_case(CORRECT, dtype, *sizes)

            def probed(case: ProbeCase = case) -> None:
                forget_verdicts()
                os.environ["FXKERNELS_CACHE"] = tempfile.mkdtemp()
                admitted(case)

            x, weight = (torch.ones(*size, dtype=dtype, requires_grad=True) for size in (sizes, sizes[-1:]))

            def layer(case: ProbeCase = case, x: torch.Tensor = x, weight: torch.Tensor = weight) -> None:
                case.reference(x, weight)[0].sum().backward()

            probed()  # starts the child, and compiles what a kernel compiles
            sides = {"probe": partial(seconds_of, probed), "layer": partial(seconds_of, layer)}
            print_row(compare(f"RMSNorm {size}, {str(dtype).removeprefix('torch.')}", sides, runs))


@main.command()
@click.option("--runs", default=5, show_default=True)
def record(runs: int) -> None:
    """Admission by a record on disk, as in a new process, and by what this process knows. At most a millisecond for each form of call."""
    case = norm_probe_case(CORRECT)
    admitted(case)

    def anew() -> None:
        forget_verdicts()
        admitted(case)

    sides = {"record": per_call(anew), "memory": per_call(partial(admitted, case))}
    print_row(compare("admission of a known form of call", sides, runs))


class Planning(HubKernels):
    """A backend that keeps a copy of the graph it is given, and its layer calls."""

    graph: fx.GraphModule
    calls: tuple[LayerCall, ...]

    def rewrite(self, gm: fx.GraphModule, mode: str | None = None) -> Any:
        self.graph = copy.deepcopy(gm)
        self.calls = find_marked_calls(self.graph.graph)
        erase_markers(self.graph.graph)
        return super().rewrite(gm, mode)

    def seconds_per_call(self) -> float:
        """How long it takes, per layer call, to decide the calls of that graph once more, as those of a further graph."""
        decider = self.decider(self.calls)
        return seconds_of(lambda: [decider.decide(call) for call in self.calls]) / len(self.calls)


@main.command()
@click.option("--blocks", default=16, show_default=True)
@click.option("--runs", default=15, show_default=True)
def call(blocks: int, runs: int) -> None:
    """The decision about a call of a known form in a further graph, with `verify` and without. At most 20 us more."""
    backends: dict[str, Any] = {}
    for verify in ("probe", "off"):
        made = fxkernels.hubkernels(inner="eager", mapping={"RMSNorm": {"cpu": repository("norms", "RMSNorm")}}, verify=verify)
        backends[verify] = Planning(made.options)
        torch._dynamo.reset()
        torch.compile(Stack(blocks), backend=backends[verify], fullgraph=True)(torch.ones(3, 8))
    sides = {f"verify {name}": backend.seconds_per_call for name, backend in backends.items()}
    row = compare("a further call of a known form", sides, runs)
    row["more"] = row["sides"]["verify probe"] - row["sides"]["verify off"]
    print_row(row)


@main.command()
@click.option("--runs", default=5, show_default=True)
def constraint(runs: int) -> None:
    """Six constraints checked for one call, with sizes that are static and with a dynamic one. At most a millisecond."""
    conditions = [parse(text.replace("weight", "self.weight")) for text in CONSTRAINTS]
    kernel = repository("norms", "RMSNorm").load_for(Target.of_machine("cpu"))
    weight = torch.empty(4096, dtype=torch.bfloat16)
    static = torch.empty(4, 128, 4096, dtype=torch.bfloat16)
    context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.STATIC, DimDynamic.STATIC, DimDynamic.DYNAMIC])
    dynamic = FakeTensorMode(shape_env=ShapeEnv()).from_tensor(static, symbolic_context=context)

    def check(x: torch.Tensor) -> object:
        return check_conditions(kernel, conditions, CallFacts({"x": x}, {"weight": weight}))

    sides = {"static": per_call(partial(check, static)), "dynamic": per_call(partial(check, dynamic))}
    print_row(compare(f"{len(conditions)} constraints on one call", sides, runs))


if __name__ == "__main__":
    main()
