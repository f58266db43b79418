"""SiLU and multiply in Triton: kernels behind `triton.heuristics`, and the same behind `triton.autotune` as well."""

import torch
import triton
import triton.language as tl


def _forward(x, y, x_row, x_column, half, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < half
    x += row * x_row
    if EVEN:
        gate = tl.load(x + columns * x_column)
        up = tl.load(x + (half + columns) * x_column)
    else:
        gate = tl.load(x + columns * x_column, mask=inside, other=0.0)
        up = tl.load(x + (half + columns) * x_column, mask=inside, other=0.0)
    wide = gate.to(tl.float32)
    tl.store(y + row * half + columns, wide * tl.sigmoid(wide) * up.to(tl.float32), mask=inside)


def _backward(grad, x, grad_x, grad_row, grad_column, x_row, x_column, half, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < half
    x += row * x_row
    gate = tl.load(x + columns * x_column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + (half + columns) * x_column, mask=inside, other=0.0).to(tl.float32)
    incoming = tl.load(grad + row * grad_row + columns * grad_column, mask=inside, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    grad_x += row * 2 * half
    tl.store(grad_x + columns, incoming * up * sigmoid * (1 + gate * (1 - sigmoid)), mask=inside)
    tl.store(grad_x + half + columns, incoming * gate * sigmoid, mask=inside)


def _block(arguments):
    return min(1024, triton.next_power_of_2(arguments["half"]))


def _is_even(arguments):
    return arguments["half"] % arguments["BLOCK"] == 0


_chosen = triton.heuristics({"BLOCK": _block, "EVEN": _is_even})
_tuned = triton.autotune(configs=[triton.Config({"BLOCK": 128}), triton.Config({"BLOCK": 512}, num_warps=8)], key=["half"])
_even = triton.heuristics({"EVEN": _is_even})

_forward, _backward = triton.jit(_forward), triton.jit(_backward)
_chosen_forward, _chosen_backward = _chosen(_forward), _chosen(_backward)
_tuned_forward, _tuned_backward = _tuned(_even(_forward)), _tuned(_even(_backward))


def _run_forward(kernel, x):
    half = x.shape[-1] // 2
    rows = x.reshape(-1, 2 * half)
    y = torch.empty((*x.shape[:-1], half), dtype=x.dtype, device=x.device)
    kernel[lambda meta: (rows.shape[0], triton.cdiv(half, meta["BLOCK"]))](rows, y, rows.stride(0), rows.stride(1), half)
    return y


def _run_backward(kernel, grad, x):
    half = x.shape[-1] // 2
    rows, grad = x.reshape(-1, 2 * half), grad.reshape(-1, half)
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    strides = (grad.stride(0), grad.stride(1), rows.stride(0), rows.stride(1))
    kernel[lambda meta: (rows.shape[0], triton.cdiv(half, meta["BLOCK"]))](grad, rows, grad_x, *strides, half)
    return grad_x


class SiluAndMulFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return _run_forward(_chosen_forward, x)

    @staticmethod
    def backward(ctx, grad):
        return _run_backward(_chosen_backward, grad, *ctx.saved_tensors)


class TunedSiluAndMulFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return _run_forward(_tuned_forward, x)

    @staticmethod
    def backward(ctx, grad):
        return _run_backward(_tuned_backward, grad, *ctx.saved_tensors)
