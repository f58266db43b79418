"""Runs of a model that change nothing: each begins with the same weights, buffers, gradients, arguments and random numbers."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn


class PreservedModel:
    """A model and the arguments of a call, kept so that they can be put back: weights, buffers, gradients, tensors among the arguments.

    A run works on the model's own tensors, so that a check finds gradients at the model's parameters. What modules hold in other attributes
    is not kept.

    Args:
        model: The model.
        args: Positional arguments of the call.
        kwargs: Its keyword arguments.
        weights: Whether parameters are kept, too. That takes the memory of a second set of them.
    """

    def __init__(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], *, weights: bool = True) -> None:
        self._call = (tuple(args), dict(kwargs))
        self._arguments = list(_tensors_in(self._call))
        parameters, buffers = list(model.parameters()), list(model.buffers())
        self._devices = {tensor.device for tensor in (*parameters, *buffers, *self._arguments)}
        kept = _distinct((*(parameters if weights else ()), *buffers, *self._arguments))
        self._values = [(tensor, tensor.detach().clone()) for tensor in kept if not tensor.is_meta]
        self._leaves = [tensor for tensor in _distinct((*parameters, *self._arguments)) if tensor.is_leaf]
        stores = [vars(module)[name] for module in model.modules() for name in ("_parameters", "_buffers")]
        self._stores: list[tuple[dict[str, Any], dict[str, Any]]] = [(store, dict(store)) for store in stores]

    @contextlib.contextmanager
    def run(self) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Hand out the arguments for one run. Its random numbers are those of every other run, and no leaf has a gradient yet."""
        gradients = [leaf.grad for leaf in self._leaves]
        for leaf in self._leaves:
            leaf.grad = None
        try:
            with preserved_generators(self._devices):
                yield self._fresh_arguments()
        finally:
            self._put_back()
            for leaf, gradient in zip(self._leaves, gradients, strict=True):
                leaf.grad = gradient

    def _fresh_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same tensors, in copies of what holds them: a cache that is an argument must not remember the last run."""
        try:
            call: tuple[tuple[Any, ...], dict[str, Any]] = copy.deepcopy(self._call, {id(tensor): tensor for tensor in self._arguments})
        except Exception:  # of whatever kind: some objects cannot be copied, and then the run gets them as they are
            return self._call
        return call

    def _put_back(self) -> None:
        for store, before in self._stores:
            store.clear()
            store.update(before)
        with torch.no_grad():
            for tensor, value in self._values:
                if not torch.equal(tensor, value):  # a kernel may write to memory without autograd's version counter noticing
                    tensor.copy_(value)


@contextlib.contextmanager
def preserved_generators(devices: Iterable[torch.device]) -> Iterator[None]:
    """Put back the generators of torch (on the CPU and these devices), Python and numpy afterwards."""
    numpy: Any = sys.modules.get("numpy")
    ours, theirs = random.getstate(), numpy.random.get_state() if numpy is not None else None
    by_type: dict[str, set[int]] = {}
    for device in devices:
        if device.type not in ("cpu", "meta"):
            by_type.setdefault(device.type, set()).add(device.index or 0)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng([]))
            for kind, numbers in by_type.items():
                stack.enter_context(torch.random.fork_rng(sorted(numbers), device_type=kind))
            yield
    finally:
        random.setstate(ours)
        if theirs is not None:
            numpy.random.set_state(theirs)


def _distinct(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in arguments: in tuples, lists, dicts and dataclasses, nested as they may be."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors_in(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors_in(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _tensors_in([getattr(value, field.name, None) for field in dataclasses.fields(value)])
