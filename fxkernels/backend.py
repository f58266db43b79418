"""The `hubkernels` backend of `torch.compile`: plan and rewrite each captured graph, then hand it to the inner compiler."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import fx

from .admission import Verify
from .capture import _torch, dynamo
from .capture.paths import ModulePaths
from .compositions import compositions, names_of_atoms
from .constraints.gate import OnDepends
from .decide import Decider, DecisionCache
from .dropped_output import with_dropped
from .dump import dump_in_environment
from .errors import REPOSITORY_CODES, KernelizeFallback, NoKernelError, RepositoryError
from .fusion import Fusion, is_fusion
from .fusions import current_fusions
from .kernels.lowering.lowering import Backward
from .mapping import KernelMapping, MappingLike, current_mapping
from .mode import Mode
from .options import Options
from .passes.example_values import example
from .passes.fuse import Matched
from .passes.layer_call import LayerCall
from .passes.miss import Miss
from .passes.pipeline import State, compiler
from .passes.plan import DecideCall, Decision, plan_rewrites
from .report.counters import RunCounters, counted
from .report.recorder import About, Recorder
from .report.report import Report
from .selection import Inner, Select
from .selection.tuned_plan import TunedPlan
from .target import Target
from .versions import installed_versions

_log = logging.getLogger("fxkernels")


@dataclass
class Session:
    """What one backend has learnt: the paths of its models, kernels that it has loaded and tried, and the record of its captures."""

    paths: ModulePaths = field(default_factory=ModulePaths)
    cache: DecisionCache = field(default_factory=lambda: DecisionCache(Target.of_machine))
    recorder: Recorder = field(init=False)
    also: tuple[HubKernels, ...] = ()
    around: dict[int, HubKernels] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    counters: RunCounters | None = None
    capture: str = "dynamo"
    runner: Callable[[fx.GraphModule], Callable[..., Any]] | None = None
    """Runs the rewritten graphs in the place of the inner compiler, for which they are still planned: for looking at single kernels."""

    def __post_init__(self) -> None:
        self.recorder = Recorder(lambda: self.paths.annotated, self.about, self.counters)

    def about(self) -> About:
        """What the report says of the captures as a whole."""
        return About(self.paths.model, tuple(self.cache.targets.values()), installed_versions(), self.capture)


class HubKernels:
    """A backend for ``torch.compile(model, backend=...)``, made by `hubkernels`. A copy or an unpickled one starts a new report."""

    __name__ = "hubkernels"  # Dynamo logs it

    def __init__(self, options: Options, session: Session | None = None, *, parts_only: bool = False) -> None:
        self.options = options
        if session is None:
            session = Session(
                cache=DecisionCache.of(options, dict(installed_versions()).get("triton")),
                counters=RunCounters() if options.counters else None,
                capture=options.capture,
            )
        self.session = session
        self.parts_only = parts_only
        dynamo.install_early()
        _listen_for_recompile_limits()

    def _dynamo_backend_init(self) -> None:
        """`torch.compile` calls this before it uses the backend (torch 2.15)."""
        dynamo.install()

    @property
    def report(self) -> Report:
        """What the captures so far have done."""
        return self.session.recorder.report

    @property
    def counters(self) -> RunCounters | None:
        """How often each call has run; None unless it was made with ``counters=True``."""
        return self.session.counters

    @property
    def paths(self) -> ModulePaths:
        """The module paths of the models it has seen."""
        return self.session.paths

    @property
    def mapping(self) -> KernelMapping:
        """The mapping that it was made with; without one, the mapping in force."""
        return current_mapping() if self.options.mapping is None else self.options.mapping

    def serves(self, layer_name: str) -> bool:
        """Whether a kernel is mapped to this layer name, or to a fusion that such layers are a part of."""
        mapping = self.mapping
        return layer_name in mapping or layer_name in names_of_atoms(self._fusions(mapping))

    def _fusions(self, mapping: KernelMapping) -> tuple[type[Fusion], ...]:
        """The fusions that it was made with, or else those in force, as far as kernels are mapped to them."""
        fusions = current_fusions() if self.options.fusions is None else self.options.fusions
        return tuple([fusion for layer_name, fusion in fusions.items() if layer_name in mapping])

    def _fusions_on(self, devices: frozenset[str]) -> tuple[type[Fusion], ...]:
        """Those fusions for which a kernel is mapped on one of these types of devices: the others have nothing to do there."""
        mapping = self.mapping
        return tuple([fusion for fusion in self._fusions(mapping) if mapping.device_types(fusion.layer_name) & devices])

    def _devices(self, gm: fx.GraphModule) -> frozenset[str]:
        """The types of the devices that kernels are chosen for: those of the graph, unless targets were named."""
        targets = [backend.options.target for backend in (self, *self.session.also)]
        named = frozenset([target.device for target in targets if target is not None])
        return named | _device_types(gm) if None in targets else named

    def hubkernels_for(self, wrapper: Any) -> HubKernels:
        """Capture asks this of every backend, to find ours."""
        return self

    def around(self, compiler: Any) -> HubKernels:
        """Return a backend of the same session for when ours is a part of a model that somebody else compiles; they get its graphs."""
        outer = compiler.outermost if isinstance(compiler, HubKernels) else compiler
        around = self.session.around.get(id(outer))
        if around is None:
            options = replace(self.options, inner=outer, inner_mode=None, inner_options=None)
            around = self.session.around[id(outer)] = HubKernels(options, self.session, parts_only=True)
        return around

    @property
    def outermost(self) -> Any:
        """The compiler that gets the graphs in the end, where this backend is there for a part of its model."""
        return self.options.inner if self.parts_only else self

    def __call__(
        self, gm: fx.GraphModule, example_inputs: list[Any], *, mode: str | None = None, options: dict[str, Any] | None = None
    ) -> Any:
        """Compile one captured graph.

        Raises:
            NoKernelError: If a call has no kernel and `use_fallback` does not permit that; no kernel is in the graph then.
            RepositoryError: If that is so because a repository cannot be loaded.
        """
        if options is not None:
            raise ValueError("give options to hubkernels(...) itself, not to torch.compile(options=...)")
        # Kernels are tried out here: hooks around the compiled call, such as a checkpoint's, must not take what a trial saves.
        with _torch.explains_missing_api(), self.session.lock, torch.autograd.graph.saved_tensors_hooks(_unchanged, _unchanged):
            state = self.rewrite(gm, mode)
        if self.session.runner is not None:
            return with_dropped(self.session.runner(gm), state.dropped, self.options.drop_outputs)
        inner = self.options.in_mode(mode).compiler if self.options.edit else Inner("eager")
        compile_inner = inner.compiler if callable(inner.compiler) else _torch.inner_compiler(inner.compiler, inner.mode, inner.options)
        with _torch.explains_missing_api(), _torch.cacheable(gm):
            compiled = with_dropped(compile_inner(gm, example_inputs), state.dropped, self.options.drop_outputs)
        return counted(compiled, [(call.site.owner.session.counters, call.key, decision) for call, decision in state.plan])

    def rewrite(self, gm: fx.GraphModule, mode: str | None = None) -> State:
        """Take a captured graph, and the graphs nested in it, through the passes. Return what they have found and done.

        Args:
            gm: The graph.
            mode: The mode that `torch.compile` was given, for the inner compiler.
        """
        run = compiler(
            compositions(self._fusions_on(self._devices(gm)), self.paths, self, parts_only=self.parts_only),
            functools.partial(self._decider, mode),
            functools.partial(self._record, mode),
            reorder=_torch.in_canonical_order,
            unread=frozenset(self.options.drop_outputs),
            edit=self.options.edit,
            observer=dump_in_environment(),
        )
        state = run(gm)
        for position, name in state.dropped.items():
            self.session.recorder.note(f"{name}, output {position} of a graph, is not returned: drop_outputs= says that nothing reads it")
        return state

    def _decider(self, mode: str | None, calls: tuple[LayerCall, ...]) -> DecideCall:
        """What decides each call as the backend wants it for which it was marked."""
        deciders: dict[HubKernels, Decider] = {}

        def decide(call: LayerCall, conflict: Miss | None) -> Decision:
            backend: HubKernels = call.site.owner
            if backend not in deciders:
                deciders[backend] = backend.decider(calls, mode)
            return deciders[backend].decide(call, conflict)

        return decide

    def decider(self, calls: tuple[LayerCall, ...], mode: str | None = None) -> Decider:
        """Return what decides the calls of one captured graph as this backend wants them, with the mapping as it is now."""
        return Decider(self.session.cache, replace(self.options.in_mode(mode), mapping=self.mapping), calls)

    def _record(self, mode: str | None, state: State) -> None:
        """Record what was decided, each backend its own calls."""
        for backend in dict.fromkeys((self, *(call.site.owner for call in state.calls))):
            matched = state.matched if backend is self else ()
            backend.conclude(state.module, [entry for entry in state.plan if entry[0].site.owner is backend], matched)
        for backend in self.session.also:
            # It has captured nothing: it decides the same calls as it would its own.
            backend.conclude(state.module, list(plan_rewrites(state.calls, backend.decider(state.calls, mode).decide)))

    def conclude(self, gm: fx.GraphModule, entries: list[tuple[LayerCall, Decision]], matched: tuple[Matched, ...] = ()) -> None:
        """Record what was decided for this backend's calls, and raise if a call may not keep its original layer.

        A fusion that misses is no such call: the layers that it is made of have their turn.
        """
        for sentence in self.session.cache.misfits:
            self.session.recorder.note(sentence)
        self.session.recorder.record(_torch.compile_key(), gm, entries, _torch.graph_break_reason(gm), matched)
        missed = [
            (call.key, call.site.layer_name, decision.misses)
            for call, decision in entries
            if decision.status == "missed" and not is_fusion(call.site.origin.reference)
        ]
        _check_fallback(self.options.use_fallback, missed)

    def __deepcopy__(self, memo: dict[int, Any]) -> HubKernels:
        return HubKernels(self.options)

    def __reduce__(self) -> tuple[Any, ...]:
        return HubKernels, (self.options,)


def hubkernels(
    *,
    inner: str | Callable[..., Any] = "inductor",
    inner_mode: str | None = None,
    inner_options: dict[str, Any] | None = None,
    mapping: MappingLike | KernelMapping | None = None,
    kernel_mode: Mode | None = None,
    use_fallback: bool | KernelizeFallback = True,
    only: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    lockfile: str | Path | None = None,
    opaque: bool = True,
    backward: Backward = "fallback",
    verify: Verify | None = None,
    on_depends: OnDepends = "guard",
    counters: bool = False,
    select: Select | None = None,
    select_budget: float = 120.0,
    plan: str | Path | TunedPlan | None = None,
    drop_outputs: str | Iterable[str] = (),
) -> HubKernels:
    """Return a backend for ``torch.compile(model, backend=...)``. It can be copied and pickled; `.report` says what it did.

    Args:
        inner: The compiler that gets the rewritten graphs: the name of a registered backend, or a callable like one.
        inner_mode: Its ``mode``, e.g. ``"reduce-overhead"``; ``mode=`` of `torch.compile` goes there as well.
        inner_options: Its ``options``.
        mapping: The mapping to use instead of the registered one, which is otherwise taken as it is now.
        kernel_mode: Consult the mapping for this mode instead of each layer's training flag.
        use_fallback: In which cases a call may keep its original layer, see `KernelizeFallback`.
        only: Globs of module paths, without ``#n``; all other calls are excluded.
        exclude: Globs of module paths that are excluded.
        lockfile: An ``fxkernels.lock``, which is read now. Every repository is loaded as it says, and what it does not have is refused.
        opaque: Whether a kernel that the inner compiler cannot trace may enter the graph as an operator of its own. If not, it is a miss.
        backward: What a kernel without a backward means for a layer in training mode: ``"fallback"`` keeps the original layer,
            ``"recompute"`` runs the kernel, and the original layer once more in the backward, for its gradient.
        verify: Whether a kernel is probed before it is used, in another process and on random tensors like the call's: ``"probe"``,
            ``"strict"``, which also refuses what cannot be probed, or ``"off"``. By default what ``FXKERNELS_VERIFY`` says, else
            ``"probe"``.
        on_depends: What happens where a kernel's constraints depend on dynamic sizes: ``"guard"`` uses it for those sizes that meet them,
            ``"miss"`` does not use it.
        counters: Whether to count how often each call runs its kernel or the original layer; see `HubKernels.counters`.
        select: Which of the kernels that fit a call is taken: ``"first"``, the one that the mapping prefers, or ``"measured"``, the
            fastest one here, if it is faster than what the inner compiler makes of the layer itself, with the operations around the call
            that it would fuse. By default ``"measured"`` for calls on a GPU where the inner compiler is Inductor, else ``"first"``.
        select_budget: How many seconds may be spent on measuring, for this backend. What is known is kept on disk; a call for which the
            budget is used up keeps the original layer.
        plan: A file that ``fxkernels tune`` has written, read now: it says which kernel runs where, and nothing is measured. What of it
            does not fit any more (another version, device or input, a kernel that is gone) keeps the original layer, and a warning says so.
        drop_outputs: Layer names of fusions whose inner values the model returns and nothing reads: ``"linear_cross_entropy"`` for a
            training step that reads the loss only. Wherever the fusion is found, with a kernel or without, the model returns a
            `DroppedOutput` instead of the logits, which raises an error when it is read.

    Raises:
        ValueError, TypeError: For a mapping, mode or flag that makes no sense, see `KernelMapping.of`.
        RepositoryError: If the lock file cannot be read.

    Example:
        >>> backend = hubkernels(inner_mode="reduce-overhead", exclude="lm_head*")
        >>> model = torch.compile(model, backend=backend)
    """
    given = {**locals(), "mapping": current_mapping() if mapping is None else mapping}
    return HubKernels(Options.of(**given, fusions=current_fusions()))


def _device_types(gm: fx.GraphModule) -> frozenset[str]:
    """The types of the devices that a captured graph computes on: those of what it reads, or if it reads no tensor, of all its values."""
    read = [example(node) for node in gm.graph.nodes if node.op in ("placeholder", "get_attr")]
    tensors = [value for value in read if isinstance(value, torch.Tensor)]
    values = tensors or [value for value in map(example, gm.graph.nodes) if isinstance(value, torch.Tensor)]
    return frozenset([value.device.type for value in values])


def _unchanged(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _check_fallback(fallback: KernelizeFallback, missed: Iterable[tuple[str, str, tuple[Miss, ...]]]) -> None:
    """Raise if a call missed for a reason for which it may not keep its original layer.

    Args:
        fallback: What the user permits.
        missed: Key, layer name and misses of every call that keeps its original layer.

    Raises:
        RepositoryError: If a repository that the call needs cannot be loaded.
        NoKernelError: In every other case, with all such calls.
    """
    refused = [
        (key, name, miss)
        for key, name, misses in missed
        # To leave a call to the compiler because that is faster is a choice between two that were there.
        if all(m.code != "not_profitable" for m in misses) and (miss := next((m for m in misses if not fallback.permits(m)), None))
    ]
    if not refused:
        return
    key, layer_name, miss = refused[0]
    if fallback is not KernelizeFallback.NONE and miss.code in REPOSITORY_CODES:
        hint = "use_fallback=KernelizeFallback.ALL keeps the original layer instead"
        raise RepositoryError(miss.code, f"{miss.message}\n  needed for {key} ({layer_name}); {hint}")
    raise NoKernelError(refused)


@functools.cache
def _listen_for_recompile_limits() -> None:
    _torch.on_recompile_limit(_hit_recompile_limit)


def _hit_recompile_limit(compiler: Any, function: str) -> None:
    backend, wrapper = _torch.unwrapped_backend(compiler)
    resolve = getattr(backend, "hubkernels_for", None)
    if resolve is None:
        return
    resolve(wrapper).session.recorder.hit_recompile_limit(function)
    _log.warning("Dynamo's recompile limit was reached in %s: new inputs run the original code there, without kernels", function)
