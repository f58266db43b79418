"""The kernel layer `chunk_gated_delta_rule`: transformers' function of that name, which is a loop over chunks there."""

from __future__ import annotations

from typing import Any

from fla.ops.gated_delta_rule import chunk_gated_delta_rule as fla_chunk_gated_delta_rule
from torch import Tensor, nn

__all__ = ["chunk_gated_delta_rule"]


class chunk_gated_delta_rule(nn.Module):  # noqa: N801 - a function layer's class has the layer's name
    """Without packed sequences, which the reference does not know either. Its size of chunks is the kernel's own."""

    has_backward = True
    can_torch_compile = False  # fla keeps torch.compile out of the function

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        g: Tensor,
        beta: Tensor,
        chunk_size: int = 64,
        initial_state: Tensor | None = None,
        output_final_state: bool = False,
        use_qk_l2norm_in_kernel: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        return fla_chunk_gated_delta_rule(  # type: ignore[no-any-return]
            query,
            key,
            value,
            g=g,
            beta=beta,
            initial_state=initial_state,
            output_final_state=output_final_state,
            use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel,
        )
