"""Tiny random-init transformers models, each with the annotated calls that one eval forward makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

_CORPUS = json.loads((Path(__file__).parent / "corpus.json").read_text())
MODELS: dict[str, dict[str, Any]] = {model["name"]: model for model in _CORPUS["models"]}


def build(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """Return the model in eval mode and the keyword arguments of a call."""
    spec = MODELS[name]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(spec["model_type"], **spec["config"])
    model = getattr(transformers, spec["auto_class"]).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 and parameter.is_floating_point():
                parameter.add_(0.1 * torch.randn_like(parameter))  # norms begin as ones, which would hide a kernel that forgets the weight
    return model, {key: _input(value) for key, value in spec["inputs"].items()}


def checkpoint(model: nn.Module) -> None:
    """Have each decoder layer run again in the backward instead of keeping what it computed. transformers 5.24 gave the method its name."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def tensors(output: Any) -> list[torch.Tensor]:
    """Return the tensors of a model output."""
    return [value for value in output.to_tuple() if isinstance(value, torch.Tensor)]


def layer_calls(name: str) -> dict[str, int]:
    """Return how many calls of each layer name the forward makes, nested ones included."""
    spec = MODELS[name]
    calls: dict[str, int] = spec.get("all_calls", spec["layer_calls"])
    return calls


def _input(value: dict[str, Any]) -> torch.Tensor:
    if "normal" in value:
        return torch.randn(value["normal"])
    if "ones_int64" in value:
        return torch.ones(value["ones_int64"], dtype=torch.int64)
    ids = torch.randint(value["low"], value["high"], value["ints"])
    if "last" in value:
        ids[:, -1] = value["last"]
    return ids
