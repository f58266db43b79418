"""The state in a module of a kernelized model by which it runs its kernels. It survives copies and pickles of the module."""

from __future__ import annotations

import copy
import weakref
from typing import Any

from torch import nn
from torch.compiler import is_exporting

from .backend import HubKernels
from .capture import _torch, dynamo
from .capture.dynamo import KERNELIZED
from .capture.hooks import HookPattern, Hooks
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
