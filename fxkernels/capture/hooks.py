"""Hooks that are registered or removed after a module was compiled.

Dynamo puts no guard on a hook dictionary that is empty when it compiles (``skip_nnmodule_hook_guards``), because such guards cost a third
of a call of small layers. So a compiled call is right for one `HookPattern`. Dynamo does guard the dictionaries that are not empty.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module
from torch.utils.hooks import RemovableHandle

HookPattern = tuple[tuple[int, str], ...]
"""Which hook dictionaries are not empty: the place of the module in a walk over all modules, and the name of the dictionary."""

_KINDS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_KINDS = tuple(f"_global{kind}" for kind in _KINDS)
_GLOBAL = vars(torch_module)


class Hooks:
    """The hooks of a module and of all modules below it, and those that are registered for every module.

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
