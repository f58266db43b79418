"""The state in a module of a kernelized model by which it runs its kernels. It survives copies and pickles of the module."""

from __future__ import annotations

import copy
import weakref
from typing import Any

from torch import nn
from torch.compiler import is_exporting
from torch.nn.modules import module as torch_module
from torch.utils.hooks import RemovableHandle

from .backend import HubKernels
from .capture import _torch, dynamo
from .capture.dynamo import KERNELIZED
from .errors import FxKernelsError
from .report.report import Report


class Kernelized:
    """The compiled call of one module, by the backend that all modules of the kernelized model share.

    It is the module's `_compiled_call_impl`, as `nn.Module.compile` would set it. Torch drops that when a module is copied or pickled. So
    this object is also an attribute of the module, is copied with it, and installs itself in the copy.

    Args:
        module: A module of the clone.
        backend: The backend of the whole model.
        path: The module's path in the model; empty for the model itself.
        original: The model that was kernelized, for the root.
    """

    def __init__(self, module: nn.Module, backend: HubKernels, path: str, original: nn.Module | None = None) -> None:
        self.module, self.backend, self.path, self.original = module, backend, path, original
        self._hooks = Hooks(module)
        self._compiled: dict[HookPattern, Any] = {}
        self._install()

    def _install(self) -> None:
        dynamo.install()  # the user may compile the model with another backend
        attributes = self.module.__dict__
        attributes[KERNELIZED] = self
        attributes["_compiled_call_impl"] = _torch.entry(self.call, self.module._call_impl)
        self.backend.paths.put(self.module, self.path)
        if not self.path:
            attributes["report"] = self.backend.report
            self.backend.session.recorder.listeners.append(_shown_by(weakref.ref(self.module)))

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module, compiled by our backend. Inside another compilation it is called uncompiled, and that one gets our graphs.

        It is called uncompiled in an export too, which gets the original layers, as do traces, forward-mode AD and dispatch modes.
        """
        if _torch.compiling_around() or is_exporting() or _torch.operations_are_watched():
            return self.module._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]
        pattern = self._hooks.pattern()
        compiled = self._compiled.get(pattern)
        if compiled is None:
            compiled = self._compiled[pattern] = _torch.compiled_with_own_frames(self.module._call_impl, self.backend)
        try:
            return compiled(*args, **kwargs)
        except Exception as error:
            cause = _torch.cause_of(error)
            if cause is error or not isinstance(cause, FxKernelsError | ValueError | TypeError):
                raise
            raise cause from cause.__cause__

    def __deepcopy__(self, memo: dict[int, Any]) -> Kernelized:
        # Modules are put into the memo before their attributes are copied; the copy is still empty here and keeps what is installed in it.
        module = copy.deepcopy(self.module, memo)
        return Kernelized(module, copy.deepcopy(self.backend, memo), self.path)

    def __getstate__(self) -> dict[str, Any]:
        return {"module": self.module, "backend": self.backend, "path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _shown_by(reference: weakref.ref[nn.Module]) -> Any:
    def show(report: Report) -> None:
        module = reference()
        if module is not None:
            module.__dict__["report"] = report

    return show


HookPattern = tuple[tuple[int, str], ...]
"""Which hook dictionaries are not empty: the place of the module in a walk over all modules, and the name of the dictionary."""

_KINDS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_KINDS = tuple(f"_global{kind}" for kind in _KINDS)
_GLOBAL = vars(torch_module)


class Hooks:
    """The hooks of a module and of all modules below it, and those that are registered for every module.

    Dynamo puts no guard on a hook dictionary that is empty when it compiles (``skip_nnmodule_hook_guards``), because such guards cost a
    third of a call of small layers. So a compiled call is right for one `HookPattern`. Dynamo does guard dictionaries that are not empty.

    Args:
        root: The module.
    """

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        self._next_id = -1
        self._pattern: HookPattern = ()
        self._held: list[tuple[dict[str, Any], str]] = []

    def pattern(self) -> HookPattern:
        """Return the present pattern. The modules are walked only if a hook was registered somewhere in the process, or one of theirs
        was removed.
        """
        next_id = RemovableHandle.next_id  # each hook that is registered, on a module, tensor or autograd node, takes the next one
        if next_id != self._next_id or (self._held and not all(state[kind] for state, kind in self._held)):
            self._next_id = next_id
            self._walk()
        return self._pattern

    def _walk(self) -> None:
        pattern = [(-1, kind) for kind in _GLOBAL_KINDS if _GLOBAL[kind]]
        held = [(_GLOBAL, kind) for _, kind in pattern]
        modules, seen = [self._root], {self._root}
        for place, module in enumerate(modules):  # not Module.modules(), which takes three times as long
            state = module.__dict__
            if state["_forward_hooks"] or state["_forward_pre_hooks"] or state["_backward_hooks"] or state["_backward_pre_hooks"]:
                kinds = [kind for kind in _KINDS if state[kind]]
                pattern += [(place, kind) for kind in kinds]
                held += [(state, kind) for kind in kinds]
            if state["_modules"]:
                children = [child for child in state["_modules"].values() if child is not None and child not in seen]
                seen.update(children)
                modules += children
        self._pattern, self._held = tuple(pattern), held
