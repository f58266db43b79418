"""Models that write out the compositions of the shipped fusions, a few operations each. `tests/fusions` holds every fusion to the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tolerances import tolerance
from torch import Tensor, nn
from torch.nn import functional as F

from fxkernels import replace_kernel_forward_from_hub, use_kernel_forward_from_hub

WIDTH = 32
HEADS, KEY_HEADS, SIZE = 4, 2, 8


@dataclass(frozen=True)
class FusionCase:
    """A model that has a composition once.

    Args:
        layer_name: Of the fusion.
        model: Makes the model.
        inputs: Makes the arguments of a call for a number of positions. Those that are floats require a gradient.
        is_trained: Whether the kernel for CPUs has a backward.
    """

    layer_name: str
    model: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]]
    is_trained: bool = True

    def prepared(self, dtype: torch.dtype, length: int = 6) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """Return the model and inputs in a dtype."""
        model, inputs = self.model().to(dtype), self.inputs(length)
        return model, tuple([x.to(dtype).requires_grad_() if x.is_floating_point() else x for x in inputs])


def rows(number: int = 1, width: int = WIDTH) -> Callable[[int], tuple[Tensor, ...]]:
    """So many tensors of two sequences."""
    return lambda length: tuple([torch.randn(2, length, width) for _ in range(number)])


class Norm(nn.Module):
    """Llama's."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.rand(width)), 1e-6

    def forward(self, hidden_states: Tensor) -> Tensor:
        wide = hidden_states.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(hidden_states.dtype)


class GemmaNorm(nn.Module):
    """Gemma's, whose weight counts from one."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.rand(width) - 0.5), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * (1.0 + self.weight.float())).type_as(x)


class T5Norm(Norm):
    """T5's, which multiplies before it rounds."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        variance = hidden_states.to(torch.float32).pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        if self.weight.dtype in (torch.float16, torch.bfloat16):
            hidden_states = hidden_states.to(self.weight.dtype)
        return self.weight * hidden_states


class Normed(nn.Module):
    """A norm, and a projection of it."""

    def __init__(self, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.norm, self.after = norm(), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.norm(torch.tanh(x)))


class AnnotatedNorm(Norm):
    forward = Norm.forward


replace_kernel_forward_from_hub(AnnotatedNorm, "RMSNorm")


class Residual(nn.Module):
    """A residual stream, a norm of it, and a block that reads the norm."""

    def __init__(self, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.norm, self.block = norm(), nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden_states: Tensor, residual: Tensor) -> Tensor:
        hidden_states = residual + hidden_states
        return hidden_states + torch.tanh(self.block(self.norm(hidden_states)))


class PostNorm(nn.Module):
    """A block, and the norm of its sum with what went into it (BERT): nobody else reads the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.tanh(self.block(x)) + x)


class Modulated(nn.Module):
    """Flux's adaptive norm, whose scale and shift are of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6), nn.Linear(WIDTH, 2 * WIDTH)
        self.block = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.linear(F.silu(embedding)).chunk(2, dim=1)
        return self.block(self.norm(x) * (1 + scale[:, None]) + shift[:, None])


class GatedMLP(nn.Module):
    """Gate, up and down projection."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(WIDTH, 48), nn.Linear(WIDTH, 48), nn.Linear(48, WIDTH)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.gate(x)) * self.up(x))


def new_gelu(x: Tensor) -> Tensor:
    """As transformers' ``gelu_new`` has it."""
    return 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * (x + 0.044715 * torch.pow(x, 3.0))))


def repeated(heads: Tensor) -> Tensor:
    """Transformers' `repeat_kv`."""
    batch, _, length, _ = heads.shape
    return heads[:, :, None].expand(batch, KEY_HEADS, HEADS // KEY_HEADS, length, SIZE).reshape(batch, HEADS, length, SIZE)


class Attention(nn.Module):
    """Queries, keys and values from projections, attention, and a projection of what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(WIDTH, HEADS * SIZE), nn.Linear(WIDTH, KEY_HEADS * SIZE)
        self.v, self.o = nn.Linear(WIDTH, KEY_HEADS * SIZE), nn.Linear(HEADS * SIZE, WIDTH)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (layer(x).view(*x.shape[:-1], -1, SIZE).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return query, repeated(key), repeated(value)

    def forward(self, x: Tensor) -> Tensor:
        found = self.attend(*self.heads(x), torch.full((x.shape[1], x.shape[1]), -1e4, dtype=x.dtype).triu(1)[None, None])
        return self.o(found.transpose(1, 2).reshape(x.shape))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask.to(query.dtype), scale=0.3)


class WrittenOut(Attention):
    """Llama's eager attention."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        scores = torch.matmul(query, key.transpose(2, 3)) * 0.3 + mask.to(query.dtype)
        weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        return torch.matmul(F.dropout(weights, p=0.0, training=self.training), value)


class SoftCapped(Attention):
    """Gemma 2's."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        scores = torch.tanh(torch.matmul(query, key.transpose(2, 3)) * 0.3 / 2.0) * 2.0 + mask.to(query.dtype)
        return torch.matmul(F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype), value)


class WithSinks(Attention):
    """GPT-OSS's."""

    def __init__(self) -> None:
        super().__init__()
        self.sinks = nn.Parameter(torch.randn(HEADS))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        scores = torch.matmul(query, key.transpose(2, 3)) * 0.3 + mask.to(query.dtype)
        sinks = self.sinks.reshape(1, -1, 1, 1).expand(query.shape[0], -1, query.shape[-2], -1)
        scores = torch.cat([scores, sinks], dim=-1)
        scores = scores - scores.max(dim=-1, keepdim=True).values
        return torch.matmul(F.softmax(scores, dim=-1, dtype=scores.dtype)[..., :-1].to(value.dtype), value)


class WithPositionBias(Attention):
    """T5's, whose decoder adds a bias and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(16, HEADS)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        places = torch.arange(query.shape[2])
        bias = self.table((places[None] - places[:, None]).clamp(-7, 7) + 7).permute(2, 0, 1).unsqueeze(0).to(query.dtype)
        scores = torch.matmul(query, key.transpose(2, 3)) * 1.0 + bias + mask.to(query.dtype)
        return torch.matmul(F.softmax(scores, dim=-1), value)


@use_kernel_forward_from_hub("rotary_pos_emb")
def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Llama's."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    swapped = [torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), dim=-1) for x in (q, k)]
    return q * cos + swapped[0] * sin, k * cos + swapped[1] * sin


class NormedHeads(Attention):
    """Qwen3's queries and keys: each head is normalised, and turned by its position."""

    norm: type[nn.Module] = Norm

    def __init__(self) -> None:
        super().__init__()
        self.q_norm, self.k_norm = self.norm(SIZE), self.norm(SIZE)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (layer(x).view(*x.shape[:-1], -1, SIZE) for layer in (self.q, self.k, self.v))
        query, key = self.turned(query, key, *tables(x))
        return query, repeated(key), repeated(value.transpose(1, 2))

    def turned(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        return rotary(self.q_norm(query).transpose(1, 2), self.k_norm(key).transpose(1, 2), cos, sin)


class GemmaHeads(NormedHeads):
    """Gemma 3's, which are normalised after positions and heads have changed places."""

    norm = GemmaNorm

    def turned(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        return rotary(self.q_norm(query.transpose(1, 2)), self.k_norm(key.transpose(1, 2)), cos, sin)


def tables(x: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of all positions."""
    angles = torch.arange(x.shape[1])[None, :, None] / torch.tensor([1.0, 3.0, 10.0, 30.0]).repeat(2)
    return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class Experts(nn.Module):
    """A router and three experts, two for each token, as transformers' ``grouped_mm`` implementation has them.

    The product itself is that implementation's operator for dtypes that torch's own lacks, or torch's own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 3)
        self.gate_up, self.down = nn.Parameter(torch.randn(3, 32, WIDTH) / 6), nn.Parameter(torch.randn(3, WIDTH, 16) / 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden_states = x.reshape(-1, WIDTH)
        weights, indices = torch.topk(F.softmax(self.router(hidden_states).float(), dim=-1), 2, dim=-1)
        found: Tensor = self.experts(hidden_states, indices, weights)
        return torch.tanh(found).reshape(x.shape)

    def experts(self, hidden_states: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        ids, order = torch.sort(indices.reshape(-1))
        offsets = torch.cumsum(torch.histc(ids.float(), bins=3, min=0, max=2), dim=0, dtype=torch.int32)
        found = self.product(hidden_states[order // 2], self.gate_up.transpose(-2, -1), offsets, ids, "gate_up_bias")
        found = self.product(self.activated(found), self.down.transpose(-2, -1), offsets, ids, "down_bias")
        found = found * weights.reshape(-1)[order].unsqueeze(-1)
        back = torch.empty_like(order)
        back[order] = torch.arange(order.size(0), device=order.device)
        return found[back].view(hidden_states.size(0), 2, WIDTH).sum(dim=1).to(hidden_states.dtype)

    def product(self, rows: Tensor, weight: Tensor, offsets: Tensor, ids: Tensor, bias: str) -> Tensor:
        import transformers.integrations.moe  # noqa: F401  (registers the operator)

        rows = rows.to(weight.dtype)
        found: Tensor
        if weight.dtype is torch.bfloat16:
            found = F.grouped_mm(rows, weight, offs=offsets)
        else:
            found = torch.ops.transformers.grouped_mm_fallback(rows, weight, offs=offsets)
        if hasattr(self, bias):
            found.add_(getattr(self, bias)[ids])
        return found

    def activated(self, found: Tensor) -> Tensor:
        gate, up = found.chunk(2, dim=-1)
        return F.silu(gate) * up


class ClampedExperts(Experts):
    """GPT-OSS's, with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_bias, self.down_bias = nn.Parameter(torch.randn(3, 32)), nn.Parameter(torch.randn(3, WIDTH))

    def activated(self, found: Tensor) -> Tensor:
        gate, up = found[..., ::2].clamp(min=None, max=1.5), found[..., 1::2].clamp(min=-1.5, max=1.5)
        return (up + 1) * (gate * torch.sigmoid(gate * 1.702))


class Loss(nn.Module):
    """A head, and transformers' causal loss."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, 50, bias=False)

    def forward(self, hidden_states: Tensor, labels: Tensor) -> Tensor:
        logits = self.head(hidden_states).float()
        labels = F.pad(labels, (0, 1), value=-100)[..., 1:].contiguous()
        return F.cross_entropy(logits.view(-1, 50), labels.view(-1), ignore_index=-100, reduction="mean")


CASES: dict[str, FusionCase] = {
    "AddRMSNorm": FusionCase("AddRMSNorm", lambda: Residual(AnnotatedNorm), rows(2)),
    "SwiGLU": FusionCase("SwiGLU", lambda: GatedMLP(F.silu), rows()),
    "rms_norm, Gemma's": FusionCase("rms_norm", lambda: Normed(GemmaNorm), rows()),
    "rms_norm, T5's": FusionCase("rms_norm", lambda: Normed(T5Norm), rows()),
    "rms_norm, torch's": FusionCase("rms_norm", lambda: Normed(lambda: nn.RMSNorm(WIDTH)), rows()),
    "add_rms_norm, Gemma's": FusionCase("add_rms_norm", lambda: Residual(GemmaNorm), rows(2)),
    "add_rms_norm, T5's": FusionCase("add_rms_norm", lambda: Residual(T5Norm), rows(2)),
    "add_rms_norm, torch's": FusionCase("add_rms_norm", lambda: Residual(lambda: nn.RMSNorm(WIDTH, eps=1e-5)), rows(2)),
    "GeGLU by tanh": FusionCase("GeGLU", lambda: GatedMLP(lambda x: F.gelu(x, approximate="tanh")), rows()),
    "GeGLU by erf": FusionCase("GeGLU", lambda: GatedMLP(F.gelu), rows()),
    "GeGLU written out": FusionCase("GeGLU", lambda: GatedMLP(new_gelu), rows()),
    "add_layer_norm": FusionCase("add_layer_norm", lambda: Residual(lambda: nn.LayerNorm(WIDTH)), rows(2)),
    "add_layer_norm without weights": FusionCase(
        "add_layer_norm", lambda: Residual(lambda: nn.LayerNorm(WIDTH, elementwise_affine=False)), rows(2)
    ),
    "add_layer_norm after a block": FusionCase("add_layer_norm", PostNorm, rows()),
    "norm_modulate": FusionCase("norm_modulate", Modulated, lambda length: (torch.randn(2, length, WIDTH), torch.randn(2, WIDTH))),
    "attention": FusionCase("attention", Attention, rows()),
    "attention, written out": FusionCase("attention", WrittenOut, rows()),
    "attention with a soft cap": FusionCase("attention", SoftCapped, rows()),
    "attention with sinks": FusionCase("attention", WithSinks, rows()),
    "attention with a position bias": FusionCase("attention", WithPositionBias, rows()),
    "qk_norm_rotary, Qwen3's": FusionCase("qk_norm_rotary", NormedHeads, rows()),
    "qk_norm_rotary, Gemma's": FusionCase("qk_norm_rotary", GemmaHeads, rows()),
    "experts": FusionCase("experts", Experts, rows(), is_trained=False),
    "experts with biases": FusionCase("experts", ClampedExperts, rows(), is_trained=False),
    "linear_cross_entropy": FusionCase(
        "linear_cross_entropy", Loss, lambda length: (torch.randn(2, length, WIDTH), torch.randint(50, (2, length)))
    ),
}


def stepped(run: Callable[..., Tensor], model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """What comes out, and the gradients of inputs and parameters of its weighted sum."""
    torch.manual_seed(1)
    output = run(*inputs)
    weight = torch.randn(output.shape).to(output.dtype)
    wanted = [x for x in (*inputs, *model.parameters()) if x.requires_grad]
    return [output.detach(), *torch.autograd.grad((output * weight).sum(), wanted)]


def assert_equal_steps(found: list[Tensor], wanted: list[Tensor], dtype: torch.dtype) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        largest = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(ours / largest, theirs / largest, **tolerance(dtype, depth=2))
