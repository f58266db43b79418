"""The workloads, which are the rows of the table."""

from __future__ import annotations

from functools import partial
from typing import Any

from . import calls
from .architectures import EXPERTS, GATED_DELTA, SIZES, bert, experts, gated_delta, llama
from .workload import Workload

__all__ = ["SIZES", "workloads"]

TOKENS = {"full": 4096, "small": 512, "tiny": 32}
"""In a prefill, and in whatever has one sequence."""
BATCHES = {"full": (4, 2048), "small": (1, 256), "tiny": (1, 16)}
"""Sequences and their length in a training step of a Llama."""
MASKED = {"full": (32, 512), "small": (4, 128), "tiny": (2, 16)}
"""The same of a BERT."""
CONTEXTS = {"full": (32, 1024, 256), "small": (4, 128, 128), "tiny": (2, 8, 64)}
"""The larger batch of a decoding step, what is in the cache before, and how many tokens fit in besides."""

NO_LIGER = {"liger", "liger+inductor"}


def workloads(size: str, layers: int | None = None) -> list[Workload]:
    """All of one size; with so many layers instead of the usual number, if given."""
    batch, length = BATCHES[size]
    sequences, masked = MASKED[size]
    tokens, many = TOKENS[size], CONTEXTS[size][0]
    llama_model = partial(llama, size, layers)
    kind = "Llama 1B" if size == "full" else f"a {size} Llama"
    decodes = [
        decode(name, kind, partial(llama_model, masked=True), rows, *CONTEXTS[size][1:])
        for name, rows in (("decode", 1), ("decode-batch", many))
    ]
    return [
        Workload(
            name="prefill",
            title=f"{kind}, prefill of 1x{tokens}",
            model=llama_model,
            inputs=partial(calls.prompt, tokens),
            output=calls.logits,
        ),
        *decodes,
        Workload(
            name="training",
            title=f"{kind}, training step of {batch}x{length}",
            model=llama_model,
            inputs=partial(calls.labelled, batch, length),
            output=calls.loss,
            training=True,
            tolerance=0.1,
            # Liger 0.8.5, torch 2.11; a GPU that has done that does nothing else for the process.
            left_out={"liger+inductor": "its Inductor code ends in an illegal memory access"},
        ),
        Workload(
            name="gated-delta",
            title=f"{layers or GATED_DELTA[size][1]} gated-delta-rule layers of Qwen3-Next, {tokens} tokens",
            model=partial(gated_delta, size, layers),
            inputs=partial(calls.states, tokens, GATED_DELTA[size][0]),
            output=calls.itself,
            tuned_by="kernels",
            last=frozenset({"inductor"}),  # two minutes
            left_out=dict.fromkeys(NO_LIGER, "Liger has no kernel for these layers")
            | {"reduce-overhead": "Inductor's code again, which takes two minutes to compile"},
        ),
        Workload(
            name="moe",
            title=f"{layers or EXPERTS[size][1]} blocks of Qwen3-MoE, {tokens} tokens",
            model=partial(experts, size, layers),
            inputs=partial(calls.prompt, tokens, keep=None),
            output=calls.hidden_states,
            tolerance=0.1,  # a token whose experts are nearly as good as others may get the others
        ),
        Workload(
            name="bert",
            title=f"{'BERT-base' if size == 'full' else f'a {size} BERT'}, training step of {sequences}x{masked}",
            model=partial(bert, size, layers),
            inputs=partial(calls.masked_labels, sequences, masked),
            output=calls.loss,
            training=True,
            tolerance=0.1,
            layer_names={"GeLU": "GeLU"},
            left_out=dict.fromkeys(NO_LIGER, "Liger has no kernels for BERT"),
        ),
    ]


def decode(name: str, kind: str, model: Any, rows: int, context: int, room: int) -> Workload:
    """A step of generation: one more token for each row, with a static cache."""
    return Workload(
        name=name,
        title=f"{kind}, decoding a token, batch {rows}, context {context}",
        model=model,
        inputs=partial(calls.next_token, rows, context, room),
        output=calls.logits,
        rewind=partial(calls.fill_to, context),
        calls=room // 2,
    )
