"""The decoder that the demo and many tests use."""

from __future__ import annotations

from collections import Counter

import torch

from fxkernels.annotate import layer_name_of
from fxkernels.demo_model import Decoder, decoder, rotary_pos_emb


def small() -> tuple[Decoder, tuple[torch.Tensor]]:
    return decoder(length=16, layers=2)


def test_the_example_arguments_give_logits_for_each_token():
    model, (input_ids,) = small()
    assert model(input_ids).shape == (1, 16, 2048)


def test_two_decoders_are_equal_and_the_global_random_state_is_untouched():
    state = torch.get_rng_state()
    (first, args), (second, same_args) = small(), small()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first(*args), second(*same_args))


def test_norms_activations_and_the_rotary_function_are_annotated():
    model, _ = small()
    names = Counter(layer_name_of(module) for module in model.modules())
    assert names["RMSNorm"] == 5
    assert names["SiluAndMul"] == 2
    assert layer_name_of(rotary_pos_emb) == "rotary_pos_emb"


def test_every_parameter_gets_a_gradient():
    model, args = small()
    model(*args).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_tokens_are_not_influenced_by_later_ones():
    model, (input_ids,) = small()
    changed = input_ids.clone()
    changed[:, 10:] = 0
    torch.testing.assert_close(model(changed)[:, :10], model(input_ids)[:, :10])


def test_it_can_be_traced_symbolically_for_any_length():
    model, args = small()
    traced = torch.fx.symbolic_trace(model)
    for length in (16, 7):
        ids = args[0][:, :length]
        assert torch.equal(traced(ids), model(ids))


def test_it_compiles_into_one_graph():
    model, args = small()
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(*args), model(*args))
