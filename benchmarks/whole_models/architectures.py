"""The models of transformers, with random weights, in three sizes: ``full`` for a GPU, ``small`` for a CPU, ``tiny`` for tests."""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from .apart import hidden

SIZES = ("full", "small", "tiny")
DTYPE = torch.bfloat16

# Hidden, intermediate, layers, heads, heads of keys and values, vocabulary. The first is that of Llama 3.2 1B.
LLAMAS = {"full": (2048, 8192, 16, 32, 8, 128_256), "small": (512, 1376, 4, 8, 4, 8192), "tiny": (64, 128, 2, 4, 2, 256)}
# The same of an attention's side, then experts, experts per token, an expert's intermediate size. The first is Qwen3 30B A3B's block.
EXPERTS = {"full": (2048, 2, 32, 4, 128, 8, 768), "small": (256, 2, 8, 4, 16, 4, 128), "tiny": (64, 1, 4, 2, 4, 2, 32)}
# Hidden, layers, heads of keys and queries, heads of values, their size. The first is Qwen3-Next 80B A3B's.
GATED_DELTA = {"full": (2048, 4, 16, 32, 128), "small": (256, 2, 4, 8, 64), "tiny": (64, 1, 2, 4, 16)}
# Hidden, intermediate, layers, heads, vocabulary. The first is BERT-base.
BERTS = {"full": (768, 3072, 12, 12, 30_522), "small": (256, 1024, 4, 4, 8192), "tiny": (32, 64, 2, 2, 128)}


@cache
def unmasked() -> str:
    """The name of SDPA without a mask, for sequences without padding.

    Under "sdpa" eager transformers finds that it needs no mask; while Dynamo traces it cannot look at values, makes one, and SDPA then
    takes slower kernels and more memory (`transformers.masking_utils`, 5.22). Everybody is to compute the same thing.
    """
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    # transformers makes masks only for implementations that have registered how.
    AttentionInterface.register("unmasked_sdpa", sdpa_attention_forward)
    return "unmasked_sdpa"


def llama(size: str, layers: int | None, fewer: int | None, *, masked: bool = False) -> nn.Module:
    """A Llama with a head; `masked` if it is to attend to less than all that is in its cache."""
    from transformers import LlamaConfig, LlamaForCausalLM

    width, inner, depth, heads, kv_heads, vocabulary = LLAMAS[size]
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=fewer or layers or depth,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        attn_implementation="sdpa" if masked else unmasked(),
    )
    return LlamaForCausalLM._from_config(config, dtype=DTYPE)


def experts(size: str, layers: int | None, fewer: int | None) -> nn.Module:
    """Blocks of a mixture of experts, without a head."""
    from transformers import Qwen3MoeConfig, Qwen3MoeModel

    width, depth, heads, kv_heads, number, per_token, inner = EXPERTS[size]
    config = Qwen3MoeConfig(
        hidden_size=width,
        num_hidden_layers=fewer or layers or depth,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=128 if size == "full" else width // heads,
        num_experts=number,
        num_experts_per_tok=per_token,
        moe_intermediate_size=inner,
        vocab_size=1024,
        attn_implementation=unmasked(),
    )
    return Qwen3MoeModel._from_config(config, dtype=DTYPE)


def bert(size: str, layers: int | None, fewer: int | None) -> nn.Module:
    """A BERT with the head of masked language models, without dropout, whose random numbers no two sides would share."""
    from transformers import BertConfig, BertForMaskedLM

    width, inner, depth, heads, vocabulary = BERTS[size]
    config = BertConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=fewer or layers or depth,
        num_attention_heads=heads,
        vocab_size=vocabulary,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation=unmasked(),
    )
    return BertForMaskedLM._from_config(config, dtype=DTYPE)


@cache
def gated_delta_net() -> Any:
    """transformers' layer, imported without fla, whose kernels transformers would take for its own reference if it found them.

    Raises:
        RuntimeError: If somebody (Liger does it) has imported it before, with fla.
    """
    if "transformers.models.qwen3_next.modeling_qwen3_next" in sys.modules and find_spec("fla") is not None:
        raise RuntimeError("Qwen3-Next was imported before fla could be hidden from it")
    with hidden("fla", "causal_conv1d"):
        from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet
    return Qwen3NextGatedDeltaNet


class GatedDeltaLayers(nn.Module):
    """The token mixers of a Qwen3-Next, each with a residual connection around it."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        layer = gated_delta_net()
        self.layers = nn.ModuleList(layer(config, index) for index in range(config.num_hidden_layers))

    def forward(self, states: Tensor) -> Tensor:
        for layer in self.layers:
            states = states + layer(states)
        return states


def gated_delta(size: str, layers: int | None, fewer: int | None) -> nn.Module:
    """A stack of gated-delta-rule layers."""
    from transformers import Qwen3NextConfig

    width, depth, key_heads, value_heads, head = GATED_DELTA[size]
    number = fewer or layers or depth
    config = Qwen3NextConfig(
        hidden_size=width,
        num_hidden_layers=number,
        linear_num_key_heads=key_heads,
        linear_num_value_heads=value_heads,
        linear_key_head_dim=head,
        linear_value_head_dim=head,
        layer_types=["linear_attention"] * number,
    )
    return GatedDeltaLayers(config).to(DTYPE)
