"""The compiler: the passes that a captured graph goes through, in order.

A pass is a value with a name and its options as fields. It takes a state and returns one; its docstring says what holds afterwards. Graphs
are edited in place, by `EraseMarkers`, `DropOutputs` and `Rewrite` only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Protocol

from torch import fx

from .drop_outputs import drop_outputs
from .fuse import Composition, Matched, find_fused_calls
from .layer_call import LayerCall
from .markers import erase_markers, find_marked_calls, in_graph_order
from .plan import DecideCall, Plan, plan_rewrites
from .rewrite import rewrite
from .verify import fault_of_any_node, fault_of_markers, fault_of_rewrites, nodes_without_example_value


def compiler(
    compositions: tuple[Composition, ...],
    decider: Decider,
    record: Callable[[State], None],
    *,
    reorder: Callable[[fx.Graph], bool] | None = None,
    unread: frozenset[str] = frozenset(),
    edit: bool = True,
    observer: Observer | None = None,
) -> Pipeline:
    """Return what turns a captured graph into one with kernels.

    Args:
        compositions: The fusions that are looked for.
        decider: Makes, of all calls of a capture, what decides one of them.
        record: Takes in the decisions. If it raises, no kernel is put into the graph.
        reorder: Puts a captured graph without markers into the order in which capture would have left it, if markers may have prevented
            that. It returns whether it did.
        unread: Layer names of calls whose inner values nothing reads, although the graph returns them.
        edit: Whether kernels are put into the graph. `explain` stops before that.
        observer: See `Pipeline`.
    """
    passes = (
        FindMarked(),  # annotated calls, by the markers that capture has put around them
        EraseMarkers(reorder),  # from here on the graph is the one that backend="eager" gets
        FindFused(compositions),  # compositions that the model's author gave no name
        DropOutputs(unread),  # what a caller does not read, as the logits beside a loss
        Decide(decider),  # one decision for each call, before any kernel is in the graph
        Record(record),  # into the report
        Rewrite(),  # the only step that edits the model's operations
    )
    return Pipeline(passes if edit else passes[:-1], observer)


@dataclass(frozen=True, eq=False)
class State:
    """What is known between two passes.

    Args:
        module: The captured graph. The graphs nested in it belong to it.
        calls: The layer calls in these graphs.
        matched: How often each composition was found in each of these graphs.
        plan: One decision for each call.
        dropped: Of the outputs that the captured graph had and no longer has, the positions and the names of the values.
    """

    module: fx.GraphModule
    calls: tuple[LayerCall, ...] = ()
    matched: tuple[Matched, ...] = ()
    plan: Plan = field(default_factory=Plan)
    dropped: Mapping[int, str] = field(default_factory=dict)

    @cached_property
    def modules(self) -> tuple[fx.GraphModule, ...]:
        """The captured graph and those nested in it."""
        return graph_modules(self.module)


def graph_modules(module: fx.GraphModule) -> tuple[fx.GraphModule, ...]:
    """Return a captured graph and the graphs nested in it: bodies of higher-order operators such as checkpointing."""
    return tuple([each for each in module.modules() if isinstance(each, fx.GraphModule)])


class Pass(Protocol):
    """One step of a pipeline."""

    name: ClassVar[str]

    def __call__(self, state: State) -> State: ...


Decider = Callable[[tuple[LayerCall, ...]], DecideCall]
"""From all calls of a capture to what decides one of them."""

Observer = Callable[[Pass | None, State], None]
"""Is shown the state after a pass; with None, what was captured. Graphs are edited in place, so it writes down what it wants to keep."""


@dataclass(frozen=True)
class Pipeline:
    """Passes that are run one after the other.

    Args:
        passes: The passes.
        observer: Is shown the capture, and then the state after each pass. With one, every node is verified after every pass; without, only
            what the plan has edited, after the last one.
    """

    passes: tuple[Pass, ...]
    observer: Observer | None = None

    def __call__(self, module: fx.GraphModule) -> State:
        """Run the passes over a captured graph and return the last state.

        Raises:
            InvalidGraphError: If a pass leaves a graph that does not hold together.
        """
        state = State(module)
        if self.observer is not None:
            self.observer(None, state)
            without = nodes_without_example_value(state.modules)
        for step in self.passes:
            state = step(state)
            if self.observer is not None:
                self.observer(step, state)
                _refuse(step, fault_of_any_node(state.modules, without))
        _refuse(self.passes[-1], fault_of_markers(state.modules) or fault_of_rewrites(state.plan))
        return state


class InvalidGraphError(RuntimeError):
    """A pass has left a graph that does not hold together. That is a fault of the pass, not of the model."""


def _refuse(step: Pass, fault: str | None) -> None:
    if fault is not None:
        raise InvalidGraphError(
            f"the pass {step.name} has left an invalid graph: {fault}\n"
            "  This is a fault of the pass, not of the model. FXKERNELS_DUMP=directory writes the graph before and after each pass."
        )


@dataclass(frozen=True)
class FindMarked:
    """Every call that markers surround is a layer call of the state."""

    name: ClassVar[str] = "find-marked"

    def __call__(self, state: State) -> State:
        counts: Counter[Hashable] = Counter()
        return replace(state, calls=tuple([call for each in state.modules for call in find_marked_calls(each.graph, counts)]))


@dataclass(frozen=True)
class EraseMarkers:
    """No marker is left, and no other node has changed, but that the captured graph is in the order that it would have without markers."""

    reorder: Callable[[fx.Graph], bool] | None = None
    name: ClassVar[str] = "erase-markers"

    def __call__(self, state: State) -> State:
        marked = [each for each in state.modules if erase_markers(each.graph)]
        if marked and self.reorder is not None and self.reorder(state.module.graph):
            marked.append(state.module)
            state = replace(state, calls=in_graph_order(state.calls))
        for each in marked:
            each.recompile()
        return state


@dataclass(frozen=True)
class FindFused:
    """Every place where a composition matches is a layer call of the state, too."""

    compositions: tuple[Composition, ...]
    name: ClassVar[str] = "find-fused"

    def __call__(self, state: State) -> State:
        if not self.compositions:
            return state
        counts = Counter[Hashable]((id(call.site.owner), call.site.path) for call in state.calls)
        calls: list[LayerCall] = []
        matched: list[Matched] = []
        for each in state.modules:
            own = tuple([call for call in state.calls if call.graph is each.graph])
            found, of_each = find_fused_calls(each.graph, own, self.compositions, counts)
            calls += found
            matched += of_each
        return replace(state, calls=tuple(calls), matched=tuple(matched))


@dataclass(frozen=True)
class DropOutputs:
    """The captured graph returns no value that only operations inside calls of these layer names compute."""

    layer_names: frozenset[str]
    name: ClassVar[str] = "drop-outputs"

    def __call__(self, state: State) -> State:
        # A graph that is nested in another returns to that, which reads all it gets.
        calls = [call for call in state.calls if call.site.layer_name in self.layer_names and call.graph is state.module.graph]
        if not (dropped := drop_outputs(state.module.graph, calls) if calls else {}):
            return state
        state.module.recompile()
        return replace(state, dropped=dropped)


@dataclass(frozen=True)
class Decide:
    """Every call has a decision, and no two calls that cannot both be rewritten are to be."""

    decider: Decider
    name: ClassVar[str] = "decide"

    def __call__(self, state: State) -> State:
        return replace(state, plan=plan_rewrites(state.calls, self.decider(state.calls)))


@dataclass(frozen=True)
class Record:
    """The report has the decisions."""

    record: Callable[[State], None]
    name: ClassVar[str] = "record"

    def __call__(self, state: State) -> State:
        self.record(state)
        return state


@dataclass(frozen=True)
class Rewrite:
    """Every call that is to be rewritten is one call of its kernel. Of other nodes only places may have changed, see `Placement`."""

    name: ClassVar[str] = "rewrite"

    def __call__(self, state: State) -> State:
        rewrite(state.plan)
        for module in dict.fromkeys(call.module for call, _ in state.plan.rewrites):
            module.recompile()
        return state
