"""The `hubkernels` backend of `torch.compile`: plan and rewrite each captured graph, then hand it to the inner compiler."""

from __future__ import annotations

import functools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import fx

from .candidates import Chooser, Decider, Request
from .capture import _torch, dynamo
from .capture.paths import ModulePaths
from .device import Device
from .errors import REPOSITORY_CODES, NoKernelError, RepositoryError
from .fallback import KernelizeFallback
from .mapping import KernelMapping, MappingLike, current_mapping
from .mode import Mode
from .passes.find import find_layer_calls
from .passes.layer_call import LayerCall
from .passes.miss import Miss
from .passes.plan import Decision, Plan, plan_rewrites
from .passes.rewrite import rewrite
from .report.model import Report
from .report.recorder import Recorder
from .target import Target

_log = logging.getLogger("fxkernels")


@dataclass(frozen=True)
class Options:
    """What can be asked of the backend. See `hubkernels` for the public ones.

    `device`, `declared` and `edit` belong to `kernelize` and `explain`: restrict to a device type, take only kernels that declare support
    for torch.compile, and whether the plan is carried out.
    """

    inner: str | Callable[..., Any] = "inductor"
    inner_mode: str | None = None
    inner_options: dict[str, Any] | None = None
    mapping: KernelMapping | None = None
    kernel_mode: Mode | None = None
    use_fallback: KernelizeFallback = KernelizeFallback.DEFAULT
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    device: str | None = None
    declared: bool = False
    edit: bool = True

    @property
    def compiled(self) -> bool:
        """Whether the inner compiler traces what it gets, instead of running it as it is."""
        return not _torch.is_eager(self.inner)


PUBLIC_OPTIONS = ("inner", "inner_mode", "inner_options", "mapping", "kernel_mode", "use_fallback", "only", "exclude")


@dataclass
class Session:
    """What one backend has learnt: the paths of its models, kernels that it has loaded and tried, and the record of its captures."""

    paths: ModulePaths = field(default_factory=ModulePaths)
    chooser: Chooser = field(default_factory=lambda: Chooser(Target.of_machine))
    recorder: Recorder = field(init=False)
    around: dict[int, HubKernels] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.recorder = Recorder(lambda: self.paths.annotated)


class HubKernels:
    """A backend for ``torch.compile(model, backend=...)``, made by `hubkernels`. A copy or an unpickled one starts a new report."""

    __name__ = "hubkernels"  # Dynamo logs it

    def __init__(self, options: Options, session: Session | None = None, *, parts_only: bool = False) -> None:
        self.options = options
        self.session = Session() if session is None else session
        self.parts_only = parts_only
        dynamo.install()
        _listen_for_recompile_limits()

    @property
    def report(self) -> Report:
        """What the captures so far have done."""
        return self.session.recorder.report

    @property
    def paths(self) -> ModulePaths:
        """The module paths of the models it has seen."""
        return self.session.paths

    @property
    def mapping(self) -> KernelMapping:
        """The mapping that it was made with; without one, the mapping in force."""
        return current_mapping() if self.options.mapping is None else self.options.mapping

    def serves(self, layer_name: str) -> bool:
        """Whether the mapping has this layer name."""
        return layer_name in self.mapping

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
            NoKernelError: If a call has no kernel and `use_fallback` does not permit that; nothing has been edited then.
            RepositoryError: If that is so because a repository cannot be loaded.
        """
        if options is not None:
            raise ValueError("give options to hubkernels(...) itself, not to torch.compile(options=...)")
        with self.session.lock:
            self.rewrite(gm)
        inner = self.options.inner
        if callable(inner):
            return inner(gm, example_inputs)
        return _torch.inner_compiler(inner, mode or self.options.inner_mode, self.options.inner_options)(gm, example_inputs)

    def rewrite(self, gm: fx.GraphModule) -> None:
        """Plan all calls of the graph and of the graphs nested in it, then edit, record and log."""
        deciders: dict[HubKernels, Decider] = {}
        counts: Counter[Hashable] = Counter()
        plans: list[tuple[fx.GraphModule, Plan]] = []
        for owner in dynamo.walk_graphs(gm):

            def decide(call: LayerCall, owner: fx.GraphModule = owner) -> Decision:
                backend: HubKernels = call.site.owner
                if backend not in deciders:
                    deciders[backend] = Decider(backend.session.chooser, backend.request())
                return deciders[backend].decide(call, owner)

            plans.append((owner, plan_rewrites(find_layer_calls(owner.graph, counts), decide)))
        for backend in dict.fromkeys((self, *deciders)):
            backend.conclude(gm, [entry for _, plan in plans for entry in plan if entry[0].site.owner is backend])
        for owner, plan in plans:
            if len(plan):
                rewrite(owner.graph, plan if self.options.edit else Plan(tuple((call, Decision("missed")) for call, _ in plan)))
                owner.recompile()

    def request(self) -> Request:
        """What is asked for, with the mapping as it is now."""
        options = self.options
        return Request(self.mapping, options.device, options.kernel_mode, options.compiled, options.declared, options.only, options.exclude)

    def conclude(self, gm: fx.GraphModule, entries: list[tuple[LayerCall, Decision]]) -> None:
        """Record what was decided for this backend's calls, and raise if a call may not keep its original layer."""
        self.session.recorder.record(_torch.compile_key(), gm, entries, _torch.graph_break_reason(gm))
        missed = [(call.key, call.site.layer_name, decision.misses) for call, decision in entries if decision.status == "missed"]
        check_fallback(self.options.use_fallback, missed)

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

    Raises:
        ValueError, TypeError: For a mapping, mode or flag that makes no sense, see `KernelMapping.of`.

    Example:
        >>> backend = hubkernels(inner_mode="reduce-overhead", exclude="lm_head*")
        >>> model = torch.compile(model, backend=backend)
    """
    return HubKernels(
        options_of(
            {
                "inner": inner,
                "inner_mode": inner_mode,
                "inner_options": inner_options,
                "mapping": current_mapping() if mapping is None else mapping,
                "kernel_mode": kernel_mode,
                "use_fallback": use_fallback,
                "only": only,
                "exclude": exclude,
            }
        )
    )


def options_of(given: dict[str, Any]) -> Options:
    """Return the options that a user's names and values stand for.

    Raises:
        ValueError: For an unknown name, listing those that exist.
        TypeError: For a value of the wrong type.
    """
    unknown = sorted(set(given) - set(PUBLIC_OPTIONS) - {f.name for f in fields(Options)})
    if unknown:
        raise ValueError(
            f"unknown option {', '.join(map(repr, unknown))} of the hubkernels backend; its options are: {', '.join(PUBLIC_OPTIONS)}"
        )
    values = dict(given)
    if values.get("mapping") is not None:
        values["mapping"] = KernelMapping.of(values["mapping"])
    if values.get("kernel_mode") is not None:
        values["kernel_mode"] = _kernel_mode(values["kernel_mode"])
    if values.get("device") is not None:
        values["device"] = Device(values["device"]).type
    if "use_fallback" in values:
        values["use_fallback"] = KernelizeFallback.of(values["use_fallback"])
    for name in ("only", "exclude"):
        globs = values.get(name, ())
        values[name] = (globs,) if isinstance(globs, str) else tuple(globs)
    if not (isinstance(values.get("inner", ""), str) or callable(values["inner"])):
        raise TypeError(f"inner= is the name of a backend or a callable, not {values['inner']!r}")
    return Options(**values)


def _kernel_mode(mode: Any) -> Mode:
    if not isinstance(mode, Mode):
        raise TypeError(f"a kernel mode is a Mode such as Mode.INFERENCE, not {mode!r}")
    if Mode.FALLBACK in mode or not (Mode.INFERENCE in mode or Mode.TRAINING in mode):
        raise ValueError(f"kernels are chosen for Mode.INFERENCE or Mode.TRAINING, not {mode!r}; FALLBACK stands in mappings only")
    return mode


def check_fallback(fallback: KernelizeFallback, missed: Iterable[tuple[str, str, tuple[Miss, ...]]]) -> None:
    """Raise if a call missed for a reason for which it may not keep its original layer.

    Args:
        fallback: What the user permits.
        missed: Key, layer name and misses of every call that keeps its original layer.

    Raises:
        RepositoryError: If a repository that the call needs cannot be loaded.
        NoKernelError: In every other case, with all such calls.
    """
    refused = [(key, name, miss) for key, name, misses in missed if (miss := next((m for m in misses if not fallback.permits(m)), None))]
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
