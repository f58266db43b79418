from __future__ import annotations

import copy
import functools
import threading
import types
import weakref
from collections import OrderedDict, deque, namedtuple

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from fxkernels.capture.clone import clone_module

Pair = namedtuple("Pair", "first second")


class Awkward(nn.Module):
    """Everything that makes a deep copy fail or a shallow copy wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("table", torch.ones(4), persistent=False)
        self.lock = threading.Lock()
        self.cache: dict[str, torch.Tensor] = {}
        self.sizes = [1, 2, 3]
        self.in_list = [self.first, (self.norm, {"deep": self.first})]
        self.in_pair = Pair(self.first, 2)
        self.in_set = {self.norm}
        self.in_deque = deque([self.norm], maxlen=3)
        self.in_dict = OrderedDict(norm=self.norm)
        self.method = self.first.forward
        self.partial = functools.partial(self._scaled, self.norm, factor=2.0)
        self.weak = weakref.ref(self.first)
        self.weak_method = weakref.WeakMethod(self.first.forward)
        object.__setattr__(self, "proxy", weakref.proxy(self.norm))
        object.__setattr__(self, "unregistered", nn.Linear(4, 4))
        self.child = nn.Identity()
        object.__setattr__(self.child, "parent", self)

    def _scaled(self, norm: nn.Module, x: torch.Tensor, factor: float) -> torch.Tensor:
        return norm(x) * factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.partial(self.method(x)) + self.table


class RefusesConstruction(nn.Module):
    def __new__(cls, *args: object) -> nn.Module:  # as FSDP's classes: not an instance of cls
        return nn.Linear(2, 2) if not args else super().__new__(cls)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))


@pytest.fixture
def model() -> Awkward:
    return Awkward().eval()


def test_clone_has_the_same_classes_and_the_same_results(model):
    clone = clone_module(model)
    x = torch.randn(3, 4)
    assert [type(module) for module in clone.modules()] == [type(module) for module in model.modules()]
    assert torch.equal(clone(x), model(x))


def test_no_module_of_the_clone_is_one_of_the_models(model):
    assert not {id(module) for module in model.modules()} & {id(module) for module in clone_module(model).modules()}


def test_state_dict_keys_and_tensors_are_the_models(model):
    clone = clone_module(model)
    assert list(clone.state_dict()) == list(model.state_dict())
    assert all(clone.state_dict(keep_vars=True)[key] is value for key, value in model.state_dict(keep_vars=True).items())


@pytest.mark.parametrize("direction", ["original to clone", "clone to original"])
def test_a_change_of_weights_on_one_side_shows_on_the_other(model, direction):
    clone = clone_module(model)
    here, there = (model, clone) if direction == "original to clone" else (clone, model)
    here.to(torch.float64)
    assert there.first.weight.dtype == torch.float64
    here.load_state_dict({key: torch.full_like(value, 3) for key, value in here.state_dict().items()}, assign=True)
    assert there.first.weight is here.first.weight
    assert there.first.weight[0, 0] == 3
    here.table = torch.zeros(4)
    assert there.table is here.table
    here.first.weight = nn.Parameter(torch.eye(4))
    assert there.first.weight is here.first.weight
    here.first.register_parameter("extra", nn.Parameter(torch.ones(1)))
    assert there.first.extra is here.first.extra
    here.register_buffer("late", torch.ones(1), persistent=False)
    assert "late" not in there.state_dict()
    assert there.late is here.late


def test_training_flags_are_independent(model):
    clone = clone_module(model)
    clone.train()
    assert not any(module.training for module in model.modules())
    model.norm.train()
    clone.eval()
    assert model.norm.training


def test_a_hook_registered_on_the_clone_does_not_run_on_the_original(model):
    clone, seen = clone_module(model), []
    clone.norm.register_forward_hook(lambda *_: seen.append("forward"))
    clone.norm.register_forward_pre_hook(lambda *_: seen.append("pre"))
    clone.register_state_dict_post_hook(lambda *_: seen.append("state"))
    model(torch.randn(2, 4))
    model.state_dict()
    assert seen == []
    clone(torch.randn(2, 4))
    assert seen == ["pre", "forward"]


def test_hooks_of_the_original_run_on_the_clone_with_the_clones_modules(model):
    seen = []
    model.norm.register_forward_hook(lambda module, args, output: seen.append(module))
    model.norm.register_forward_pre_hook(lambda module, args, kwargs: seen.append(module), with_kwargs=True)
    model.norm.register_full_backward_hook(lambda module, *_: seen.append(module))
    clone = clone_module(model)
    clone(torch.randn(2, 4)).sum().backward()
    assert seen == [clone.norm] * 3


def test_a_hook_removed_from_the_original_stays_on_the_clone(model):
    seen = []
    handle = model.norm.register_forward_hook(lambda *_: seen.append("hook"))
    clone = clone_module(model)
    handle.remove()
    clone(torch.randn(2, 4))
    assert seen == ["hook"]


def test_hooks_that_are_methods_of_a_module_are_methods_of_its_clone(model):
    seen = []
    model.note = types.MethodType(lambda self, *_: seen.append(self), model)
    model.first.register_forward_hook(model.note)
    clone = clone_module(model)
    clone.again(torch.randn(2, 4))
    assert seen == [clone]


def test_load_state_dict_hooks_get_the_clone():
    class Loader(nn.Linear):
        def before(self, module, *_):
            assert module is self
            self.loaded = True

    model = nn.Sequential(Loader(2, 2))
    model[0].register_load_state_dict_pre_hook(model[0].before)
    clone = clone_module(model)
    clone.load_state_dict(model.state_dict())
    assert clone[0].loaded
    assert not hasattr(model[0], "loaded")


def test_a_submodule_at_two_paths_is_one_clone(model):
    clone = clone_module(model)
    assert clone.first is clone.again


def test_modules_in_containers_and_attributes_are_the_clones(model):
    clone = clone_module(model)
    assert clone.in_list[0] is clone.first
    assert clone.in_list[1][0] is clone.norm
    assert clone.in_list[1][1]["deep"] is clone.first
    assert type(clone.in_pair) is Pair
    assert clone.in_pair.first is clone.first
    assert clone.in_set == {clone.norm}
    assert list(clone.in_deque) == [clone.norm]
    assert clone.in_deque.maxlen == 3
    assert type(clone.in_dict) is OrderedDict
    assert clone.in_dict["norm"] is clone.norm
    assert clone.unregistered is not model.unregistered
    assert clone.unregistered.weight is model.unregistered.weight


def test_bound_methods_partials_and_weak_references_lead_to_the_clones(model):
    clone = clone_module(model)
    assert clone.method.__self__ is clone.first
    assert clone.partial.func.__self__ is clone
    assert clone.partial.args == (clone.norm,)
    assert clone.weak() is clone.first
    assert clone.weak_method().__self__ is clone.first
    clone.norm.mark = "clone"
    assert clone.proxy.mark == "clone"


def test_a_child_that_refers_to_its_parent_refers_to_the_parents_clone(model):
    clone = clone_module(model)
    assert clone.child.parent is clone


def test_attributes_without_modules_are_the_same_objects(model):
    clone = clone_module(model)
    assert clone.lock is model.lock
    assert clone.cache is model.cache
    assert clone.sizes is model.sizes


def test_nothing_in_the_original_changes(model):
    def everything(value: object) -> object:
        if isinstance(value, dict):
            return {key: everything(item) for key, item in value.items()}
        return [everything(item) for item in value] if isinstance(value, list | tuple | deque) else id(value)

    before = {path: everything(vars(module)) for path, module in model.named_modules()}
    weights = copy.deepcopy(model.state_dict())
    clone = clone_module(model)
    clone.train()
    clone.first.register_forward_hook(lambda *_: None)
    clone.extra = nn.Linear(1, 1)
    assert {path: everything(vars(module)) for path, module in model.named_modules()} == before
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_a_forward_on_the_instance_that_wraps_the_old_one_works_on_the_clone(model):
    # the way in which accelerate attaches its hooks
    def new_forward(module, *args):
        module.calls = getattr(module, "calls", 0) + 1
        return module._old_forward(*args)

    model.norm._old_forward = model.norm.forward
    model.norm.forward = functools.update_wrapper(functools.partial(new_forward, model.norm), model.norm.forward)
    clone = clone_module(model)
    clone.norm(torch.randn(2, 4))
    assert clone.norm.calls == 1
    assert not hasattr(model.norm, "calls")
    assert clone.norm.forward.__wrapped__.__self__ is clone.norm


def test_a_class_whose_new_makes_something_else_is_cloned_as_it_is():
    clone = clone_module(RefusesConstruction(3))
    assert type(clone) is RefusesConstruction


def test_parametrized_layers_share_what_they_are_computed_from():
    model = parametrizations.weight_norm(nn.Linear(3, 3))
    clone = clone_module(model)
    with torch.no_grad():
        model.parametrizations.weight.original0.mul_(2)
    assert torch.equal(clone.weight, model.weight)
    assert clone.parametrizations is not model.parametrizations


def test_what_module_compile_made_stays_with_the_original():
    model = nn.Linear(2, 2)
    model.compile(backend="eager")
    clone = clone_module(model)
    assert clone._compiled_call_impl is None
    assert model._compiled_call_impl is not None


def test_a_long_chain_of_modules_needs_no_deep_recursion():
    first = last = nn.Identity()
    for _ in range(5000):
        object.__setattr__(last, "next", nn.Identity())
        last = last.next
    clone = clone_module(first)
    for _ in range(5000):
        clone = clone.next
    assert type(clone) is nn.Identity


def test_script_modules_are_shared():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.warns((DeprecationWarning, FutureWarning), match="torch.jit.script"):
        model.append(torch.jit.script(nn.ReLU()))
    clone = clone_module(model)
    assert clone[1] is model[1]


def test_a_transformers_model_is_cloned_and_generates_the_same_tokens():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=64
    )
    model = transformers.LlamaForCausalLM(config).eval()
    clone = clone_module(model)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(clone(ids).logits, model(ids).logits)
    assert torch.equal(clone.generate(ids, max_new_tokens=5, do_sample=False), model.generate(ids, max_new_tokens=5, do_sample=False))
    model.to(torch.bfloat16)
    assert clone.lm_head.weight is model.lm_head.weight
    assert clone.dtype == torch.bfloat16


def test_wrapped_by_fsdp_or_ddp_a_clone_computes_and_trains_like_the_model():
    if not torch.distributed.is_available():
        pytest.skip("torch without distributed")
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        sharded = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)))
        fully_shard(sharded, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (1,)))
        replicated = nn.parallel.DistributedDataParallel(nn.Linear(4, 4))
        for model in (sharded, replicated):
            clone = clone_module(model)
            x = torch.randn(2, 4)
            assert type(clone) is type(model)
            assert torch.equal(clone(x), model(x))
            clone(x).sum().backward()
            assert all(parameter.grad is not None for parameter in model.parameters())
    finally:
        torch.distributed.destroy_process_group()
