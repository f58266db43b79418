"""Layers with matrix products, softmax, choices and recurrences, whose kernels round elsewhere or take another way to the same result."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from probe_cases import probe_case_for
from torch import nn

from fxkernels.admission.probe import probe

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


class FusedMlp(nn.Module):
    def forward(self, x):
        gate, up = F.linear(x, torch.cat((self.gate, self.up))).chunk(2, -1)
        return F.linear((F.silu(gate.float()) * up.float()).to(x.dtype), self.down)


class QuantizedMlp(nn.Module):
    """Stores its weights in eight bits."""

    def forward(self, x):
        step = self.gate.abs().amax() / 127
        gate = F.linear(x, (self.gate / step).round() * step)
        return F.linear(F.silu(gate) * F.linear(x, self.up), self.down)


class Attention(nn.Module):
    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, scale=0.125)


class Router(nn.Module):
    """Chooses before it normalises, where the layer normalises before it chooses."""

    def forward(self, x):
        values, places = torch.topk(F.linear(x, self.weight), 2, -1)
        return torch.softmax(values.float(), -1), places


class ParallelDelta(nn.Module):
    """The recurrence as one masked product."""

    def forward(self, q, k, v, decay):
        total = decay.float().cumsum(-1)
        weights = (q.float() @ k.float().mT) * (total[..., :, None] - total[..., None, :]).exp().tril()
        return (weights @ v.float()).to(q.dtype)


def tensor(dtype, *sizes):
    return torch.empty(sizes, dtype=dtype).requires_grad_()


def mlp_probe_case(kernel, dtype):
    def mlp(x, gate, up, down):
        return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)

    tensors = {"gate": tensor(dtype, 128, 64), "up": tensor(dtype, 128, 64), "down": tensor(dtype, 64, 128)}
    return probe_case_for(kernel, mlp, [tensor(dtype, 2, 16, 64)], tensors)


@DTYPES
def test_a_fused_mlp_is_admitted(dtype):
    verdict = probe(mlp_probe_case(FusedMlp, dtype))
    assert verdict.result == "admitted", verdict


@DTYPES
def test_an_mlp_with_weights_in_eight_bits_is_refused(dtype):
    assert probe(mlp_probe_case(QuantizedMlp, dtype)).result == "refused"


@DTYPES
def test_attention_is_admitted(dtype):
    def attention(q, k, v):
        return torch.softmax((q @ k.transpose(-1, -2)) * 0.125, -1, dtype=torch.float32).to(dtype) @ v

    verdict = probe(probe_case_for(Attention, attention, [tensor(dtype, 2, 4, 33, 64) for _ in range(3)]))
    assert verdict.result == "admitted", verdict


@DTYPES
def test_a_router_that_takes_another_of_two_equal_values_is_admitted(dtype):
    def router(x, weight):
        values, places = torch.topk(torch.softmax(F.linear(x, weight), -1, dtype=torch.float32), 2, -1)
        return values / values.sum(-1, keepdim=True), places

    verdict = probe(probe_case_for(Router, router, [tensor(dtype, 40, 64)], {"weight": tensor(dtype, 8, 64)}))
    assert verdict.result == "admitted", verdict


@DTYPES
def test_a_recurrence_in_parallel_is_admitted(dtype):
    def recurrence(q, k, v, decay):
        state, outputs = q.new_zeros(2, 4, 16, 16, dtype=torch.float32), []
        for step in range(12):
            added = k[:, :, step, :, None].float() * v[:, :, step, None, :].float()
            state = state * decay[:, :, step, None, None].float().exp() + added
            outputs.append((q[:, :, step, None, :].float() @ state)[:, :, 0])
        return torch.stack(outputs, 2).to(dtype)

    arguments = [*(tensor(dtype, 2, 4, 12, 16) for _ in range(3)), tensor(dtype, 2, 4, 12)]
    verdict = probe(probe_case_for(ParallelDelta, recurrence, arguments))
    assert verdict.result == "admitted", verdict
