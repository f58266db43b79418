"""Which calls read from which: the nearest ones, through residual streams, nested calls and checkpointed bodies."""

from __future__ import annotations

import operator

import pytest
import torch
from graphs import GraphBuilder, calls_of, norm_call
from torch import fx

from fxkernels import explain
from fxkernels.demo_model import decoder
from fxkernels.passes.dataflow import reads_of


def reads(build: GraphBuilder, *outputs: fx.Node) -> dict[str, tuple[str, ...]]:
    module = build.module(*outputs)
    return reads_of(module, calls_of(module.graph))


def test_a_call_reads_the_one_whose_output_reaches_it() -> None:
    build = GraphBuilder()
    x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    first = norm_call(build, "first", x, weight)
    second = norm_call(build, "second", build(torch.sin, first), weight)
    assert reads(build, second) == {"first#0": (), "second#0": ("first#0",)}


def test_of_the_calls_in_a_residual_stream_only_the_last_one_is_read() -> None:
    build = GraphBuilder()
    stream, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    for number in range(4):
        stream = build(operator.add, stream, norm_call(build, f"norms.{number}", stream, weight))
    assert reads(build, stream) == {
        "norms.0#0": (),
        "norms.1#0": ("norms.0#0",),
        "norms.2#0": ("norms.1#0",),
        "norms.3#0": ("norms.2#0",),
    }


def test_a_call_of_two_branches_reads_both() -> None:
    build = GraphBuilder()
    x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    left, right = norm_call(build, "left", x, weight), norm_call(build, "right", x, weight)
    end = norm_call(build, "end", build(operator.mul, left, right), weight)
    assert reads(build, end)["end#0"] == ("left#0", "right#0")


def test_an_inner_call_reads_what_comes_before_the_outer_one_and_others_read_the_outer_one() -> None:
    build = GraphBuilder()
    x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    before = norm_call(build, "before", x, weight)
    with build.layer("block", before, tensors={"weight": weight}) as block:
        block.returns(build(torch.sin, norm_call(build, "block.norm", build(torch.cos, before), weight)))
    after = norm_call(build, "after", block.output, weight)
    assert reads(build, after) == {
        "before#0": (),
        "block#0": ("before#0",),
        "block.norm#0": ("before#0",),
        "after#0": ("block#0",),
    }


def test_what_is_written_into_a_buffer_is_read_from_there() -> None:
    build = GraphBuilder()
    x, weight, cache = build.tensor("x", 4, 8), build.tensor("weight", 8), build.tensor("cache", 4, 8)
    build(operator.setitem, cache, ..., norm_call(build, "first", x, weight))
    second = norm_call(build, "second", cache, weight)
    assert reads(build, second)["second#0"] == ("first#0",)


def test_calls_without_a_mapped_kernel_are_related_too() -> None:
    model, args = decoder(length=16, layers=1)
    found = {call.key: call.decisions[-1].reads for call in explain(model, *args).calls}
    assert found == {
        "layers.0.input_layernorm#0": (),
        "layers.0.self_attn.rotary_pos_emb#0": ("layers.0.input_layernorm#0",),
        "layers.0.post_attention_layernorm#0": ("layers.0.self_attn.rotary_pos_emb#0",),
        "layers.0.mlp.activation#0": ("layers.0.post_attention_layernorm#0",),
        "norm#0": ("layers.0.mlp.activation#0",),
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_calls_in_checkpointed_layers_are_related_across_the_layers() -> None:
    pytest.importorskip("transformers")
    import corpus

    model, kwargs = corpus.build("llama")
    model.train()
    corpus.checkpoint(model)
    found = {call.path: call.decisions[-1].reads for call in explain(model, **kwargs).calls}
    assert found["model.layers.1.input_layernorm"] == ("model.layers.0.mlp.act_fn#0",)
    assert found["model.norm"] == ("model.layers.1.mlp.act_fn#0",)
