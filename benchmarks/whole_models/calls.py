"""What models are called with, and what of their results is compared."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from .architectures import DTYPE
from .workload import Inputs


def ids(model: nn.Module, rows: int, length: int) -> Tensor:
    """Random tokens."""
    return torch.randint(model.config.vocab_size, (rows, length))  # type: ignore[union-attr, arg-type, call-overload]


def prompt(length: int, model: nn.Module, keep: int | None = 1) -> Inputs:
    """One sequence, of which a language model gives the last token's logits, as `generate` asks for them."""
    return {"input_ids": ids(model, 1, length), "use_cache": False} | ({} if keep is None else {"logits_to_keep": keep})


def next_token(rows: int, context: int, room: int, model: nn.Module) -> Inputs:
    """One token for each row, and a static cache with random keys and values."""
    from transformers import StaticCache

    config: Any = model.config
    cache = StaticCache(config=config, max_cache_len=context + room)
    size = config.hidden_size // config.num_attention_heads
    cache.early_initialization(rows, config.num_key_value_heads, size, DTYPE, torch.get_default_device())
    for layer in cache.layers:
        layer.keys.normal_()
        layer.values.normal_()
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"  # before transformers 5.24
    return {"input_ids": ids(model, rows, 1), name: cache}


def fill_to(context: int, inputs: Inputs) -> None:
    """Set a static cache back."""
    (cache,) = [value for name, value in inputs.items() if name != "input_ids"]
    for layer in cache.layers:
        layer.cumulative_length.fill_(context)


def labelled(rows: int, length: int, model: nn.Module) -> Inputs:
    """Sequences to be predicted."""
    tokens = ids(model, rows, length)
    return {"input_ids": tokens, "labels": tokens, "use_cache": False}


def masked_labels(rows: int, length: int, model: nn.Module) -> Inputs:
    """Sequences of which 15 % are to be predicted."""
    tokens = ids(model, rows, length)
    return {"input_ids": tokens, "labels": tokens.where(torch.rand(rows, length) < 0.15, -100)}


def states(length: int, width: int, model: nn.Module) -> Inputs:
    """One sequence of hidden states."""
    return {"states": torch.randn(1, length, width, dtype=DTYPE)}


def logits(result: Any) -> Tensor:
    """A language model's output."""
    return result.logits  # type: ignore[no-any-return]


def loss(result: Any) -> Tensor:
    """What is differentiated."""
    return result.loss  # type: ignore[no-any-return]


def hidden_states(result: Any) -> Tensor:
    """The output of a model without a head."""
    return result.last_hidden_state  # type: ignore[no-any-return]


def itself(result: Tensor) -> Tensor:
    """The output, which is a tensor already."""
    return result
