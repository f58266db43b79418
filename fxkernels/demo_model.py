"""A small Llama-like decoder with annotated layers, for `fxkernels demo`, the benchmarks and the tests. Needs nothing but torch.

It can be traced symbolically too: no shape is read as a Python number.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxkernels.annotate import use_kernel_forward_from_hub

__all__ = ["Decoder", "RMSNorm", "SiluAndMul", "decoder", "rotary_pos_emb"]


@use_kernel_forward_from_hub("RMSNorm")
class RMSNorm(nn.Module):
    """Root-mean-square norm with Llama's rounding: normalise in float32, round, then multiply by the weight."""

    def __init__(self, size: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.variance_epsilon = epsilon

    def forward(self, hidden_states: Tensor) -> Tensor:
        x = hidden_states.to(torch.float32)
        variance = x.pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + self.variance_epsilon)).to(hidden_states.dtype)


@use_kernel_forward_from_hub("SiluAndMul")
class SiluAndMul(nn.Module):
    """The gated activation: SiLU of the first half of the last dimension times the second half."""

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-1] // 2
        return F.silu(x[..., :size]) * x[..., size:]


def _rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


@use_kernel_forward_from_hub("rotary_pos_emb")
def rotary_pos_emb(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Queries and keys, rotated by their positions.

    Args:
        q: Queries, (batch, heads, length, head size) where `unsqueeze_dim` is 1.
        k: Keys; may have fewer heads.
        cos: (batch, length, head size).
        sin: As `cos`.
        unsqueeze_dim: Where `cos` and `sin` get the dimension of the heads.
    """
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return q * cos + _rotate_half(q) * sin, k * cos + _rotate_half(k) * sin


class Attention(nn.Module):
    """Causal attention with rotary positions; several query heads share a key-value head."""

    def __init__(self, size: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.head_size = size // heads
        self.q_proj = nn.Linear(size, heads * self.head_size, bias=False)
        self.k_proj = nn.Linear(size, kv_heads * self.head_size, bias=False)
        self.v_proj = nn.Linear(size, kv_heads * self.head_size, bias=False)
        self.o_proj = nn.Linear(size, size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (self._heads(projection(x)) for projection in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotary_pos_emb(q, k, cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _heads(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (-1, self.head_size)).transpose(1, 2)


class GatedMLP(nn.Module):
    """Gate and up projection in one matrix, `SiluAndMul`, down projection."""

    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(size, 2 * inner, bias=False)
        self.activation = SiluAndMul()
        self.down_proj = nn.Linear(inner, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_up_proj(x)))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Norm and attention, norm and MLP, each with a residual."""

    def __init__(self, size: int, heads: int, kv_heads: int, inner: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(size)
        self.self_attn = Attention(size, heads, kv_heads)
        self.post_attention_layernorm = RMSNorm(size)
        self.mlp = GatedMLP(size, inner)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Token ids (batch, length) to logits (batch, length, vocabulary).

    Args:
        size: Width of the residual stream.
        layers: Number of decoder layers: each calls RMSNorm twice, rotary_pos_emb and SiluAndMul once. One more RMSNorm comes last.
        heads: Query heads; `size` is a multiple of it.
        kv_heads: Key-value heads; divides `heads`.
        inner: Width of the MLP.
        vocabulary: Number of token ids.
        longest: Longest sequence.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        *,
        size: int = 512,
        layers: int = 4,
        heads: int = 8,
        kv_heads: int = 4,
        inner: int = 1408,
        vocabulary: int = 2048,
        longest: int = 2048,
    ) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, size)
        self.layers = nn.ModuleList(DecoderLayer(size, heads, kv_heads, inner) for _ in range(layers))
        self.norm = RMSNorm(size)
        self.lm_head = nn.Linear(size, vocabulary, bias=False)
        head_size = size // heads
        frequencies = 10_000.0 ** -(torch.arange(0, head_size, 2) / head_size)
        angles = torch.outer(torch.arange(longest), frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        # Positions from the ids, not from a length: a symbolic tracer has no number for it.
        positions = torch.ones_like(input_ids).cumsum(-1) - 1
        cos, sin = F.embedding(positions, self.cos), F.embedding(positions, self.sin)
        x = self.embed_tokens(input_ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.norm(x))  # type: ignore[no-any-return]


def decoder(*, batch: int = 1, length: int = 512, layers: int = 4) -> tuple[Decoder, tuple[Tensor]]:
    """Return a decoder in eval mode with the same random weights at each call, and example arguments for it.

    The default size takes about a quarter of a second on one CPU core. The global random state stays as it was.

    Args:
        batch: Sequences in the example.
        length: Tokens per sequence, at most 2048.
        layers: Number of decoder layers.

    Example:
        >>> model, args = decoder()
        >>> logits = model(*args)
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Decoder(layers=layers).eval()
        input_ids = torch.randint(model.embed_tokens.num_embeddings, (batch, length))
    return model, (input_ids,)
