"""Where the shipped fusions match: ``python benchmarks/fusions.py`` counts the calls of each in tiny models of transformers and diffusers.

A row is an architecture with one implementation of attention, in eval mode and in training; a causal language model is trained with labels
and its loss. The rows of other versions of transformers are kept, and `python benchmarks/render.py` makes a table for each version. No
kernel runs: a fusion counts where it is found, rewritten or not.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fxkernels
from fxkernels.fusions import SHIPPED

RESULTS = Path(__file__).parent / "results" / "fusions.jsonl"

TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
GROUPED = TEXT | {"num_key_value_heads": 2}
EXPERTS = GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Llama": ("AutoModelForCausalLM", "llama", GROUPED),
    "Mistral": ("AutoModelForCausalLM", "mistral", GROUPED),
    "Qwen2": ("AutoModelForCausalLM", "qwen2", GROUPED),
    "Qwen3": ("AutoModelForCausalLM", "qwen3", GROUPED | {"head_dim": 8}),
    "OLMo 2": ("AutoModelForCausalLM", "olmo2", GROUPED),
    "Gemma 2": ("AutoModelForCausalLM", "gemma2", GROUPED | {"head_dim": 8, "sliding_window": 8}),
    "Gemma 3": ("AutoModelForCausalLM", "gemma3_text", GROUPED | {"head_dim": 8, "sliding_window": 8}),
    "Phi": ("AutoModelForCausalLM", "phi", GROUPED),
    "Phi 3": ("AutoModelForCausalLM", "phi3", GROUPED),
    "Mixtral": ("AutoModelForCausalLM", "mixtral", EXPERTS),
    "Qwen3-MoE": ("AutoModelForCausalLM", "qwen3_moe", EXPERTS | {"num_experts": 4, "moe_intermediate_size": 16}),
    "GPT-OSS": ("AutoModelForCausalLM", "gpt_oss", EXPERTS | {"sliding_window": 8}),
    "BERT": ("AutoModelForMaskedLM", "bert", TEXT),
    "T5": (
        "AutoModelForSeq2SeqLM",
        "t5",
        {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
    ),
    "T5 1.1": (
        "AutoModelForSeq2SeqLM",
        "t5",
        {
            "vocab_size": 99,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
            "feed_forward_proj": "gated-gelu",
        },
    ),
    "Whisper": (
        "AutoModelForSpeechSeq2Seq",
        "whisper",
        {
            "vocab_size": 99,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "num_mel_bins": 8,
            "max_source_positions": 16,
            "max_target_positions": 32,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
            "suppress_tokens": [],
            "begin_suppress_tokens": [],
        },
    ),
    "SigLIP": (
        "AutoModel",
        "siglip_vision_model",
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8},
    ),
}

ROUTES = {
    "T5": "input_ids decoder_input_ids",
    "T5 1.1": "input_ids decoder_input_ids",
    "Whisper": "input_features decoder_input_ids",
    "SigLIP": "pixel_values",
}
INPUTS: dict[str, Callable[[], torch.Tensor]] = {
    "input_ids": lambda: torch.randint(3, 99, (2, 12)),
    "decoder_input_ids": lambda: torch.randint(3, 99, (2, 6)),
    "input_features": lambda: torch.randn(2, 8, 32),
    "pixel_values": lambda: torch.randn(2, 3, 32, 32),
}


def transformers_model(name: str, attention: str) -> tuple[nn.Module, dict[str, Any]]:
    """A tiny model with random weights, and the arguments of a call."""
    import transformers

    auto, model_type, config = MODELS[name]
    torch.manual_seed(0)
    built = transformers.AutoConfig.for_model(model_type, **config)
    model = getattr(transformers, auto).from_config(built, attn_implementation=attention)
    return model, {key: INPUTS[key]() for key in ROUTES.get(name, "input_ids").split()}


def flux() -> tuple[nn.Module, dict[str, Any]]:
    """A tiny transformer of Flux."""
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    return model, {
        "hidden_states": torch.randn(1, 16, 4),
        "encoder_hidden_states": torch.randn(1, 8, 32),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.tensor([1.0]),
        "img_ids": torch.randn(16, 3),
        "txt_ids": torch.randn(8, 3),
        "return_dict": False,
    }


class Loss(nn.Module):
    """A causal language model whose logits nobody reads, as a training step has it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the loss of predicting the inputs."""
        loss: torch.Tensor = self.model(input_ids=input_ids, labels=input_ids).loss
        return loss


class Nothing:
    """A repository without a kernel: what is looked for is found, and keeps its operations."""

    repo_id, layer_name = "nothing", "nothing"

    def load(self) -> type[nn.Module]:
        """Raise: there is nothing to load."""
        raise fxkernels.RepositoryError("this repository only makes a fusion be looked for")


def count(model: nn.Module, inputs: dict[str, Any], training: bool) -> tuple[Counter[str], list[str]]:
    """How often each fusion is found in a call of the model, and what is said of those that are not."""
    mapping = {fusion.layer_name: {"cpu": Nothing()} for fusion in SHIPPED}
    backend = fxkernels.hubkernels(inner="eager", mapping=mapping, use_fallback=fxkernels.KernelizeFallback.ALL)
    torch._dynamo.reset()
    model.train(training)
    with torch.set_grad_enabled(training):
        torch.compile(model, backend=backend)(**inputs)
    names = {fusion.layer_name for fusion in SHIPPED}
    return Counter(call.layer_name for call in backend.report.calls if call.layer_name in names), list(backend.report.notes)


def main() -> None:
    """Count, and write a row for each architecture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", help="one architecture; its notes are printed and no row is written")
    only = parser.parse_args().only
    rows: list[str] = []
    cases: list[tuple[str, str, Callable[[], tuple[nn.Module, dict[str, Any]]]]] = [
        (name, attention, lambda name=name, attention=attention: transformers_model(name, attention))  # type: ignore[misc]
        for name in MODELS
        for attention in ("sdpa", "eager")
    ]
    if find_spec("diffusers") is not None:
        cases.append(("Flux", "sdpa", flux))
    for name, attention, build in cases:
        if only not in (None, name):
            continue
        row: dict[str, Any] = {"architecture": name, "attention": attention, "transformers": version("transformers")}
        for training in (False, True):
            begin = time.perf_counter()
            try:
                model, inputs = build()
                with_loss = training and MODELS.get(name, ("",))[0] == "AutoModelForCausalLM"
                found, notes = count(Loss(model) if with_loss else model, inputs, training)
            except Exception as error:  # an implementation of attention that the architecture lacks, say; the row has the reason
                row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
                break
            row["training" if training else "eval"] = dict(sorted(found.items()))
            mode = "train" if training else "eval"
            print(f"{name:10} {attention:6} {mode:5} {time.perf_counter() - begin:5.1f} s  {dict(found)}", flush=True)
            if only is not None:
                print("\n".join(notes))
        if "error" in row:
            print(f"{name:10} {attention:6} {row['error']}", flush=True)
        rows.append(json.dumps(row))
    if only is None:
        kept = [line for line in RESULTS.read_text().splitlines() if json.loads(line)["transformers"] != version("transformers")]
        RESULTS.write_text("\n".join([*kept, *rows]) + "\n")


if __name__ == "__main__":
    main()
