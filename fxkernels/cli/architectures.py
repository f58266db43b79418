"""Models of transformers by the name of their architecture, ``hf:llama``: without weights, and without the network."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .output import CommandError, described

PREFIX = "hf:"

_LENGTH = 128
_IMAGE_SIZE = 224

# What a model is made for, from the particular to the general: the first one that has the architecture is built.
_ENCODER_DECODERS = {
    "AutoModelForSeq2SeqLM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "AutoModelForSpeechSeq2Seq": "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING",
}
_HEADS = {
    "AutoModelForMaskedLM": "MODEL_FOR_MASKED_LM_MAPPING",
    "AutoModelForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING",
    "AutoModelForObjectDetection": "MODEL_FOR_OBJECT_DETECTION_MAPPING",
    "AutoModelForImageTextToText": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "AutoModelForCTC": "MODEL_FOR_CTC_MAPPING",
    "AutoModelForImageClassification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
}


def load_architecture(name: str, config: Sequence[str] = (), device: str = "meta") -> tuple[nn.Module, dict[str, Any]]:
    """Return a model of transformers in eval mode, and example arguments for it.

    Args:
        name: Its model type, e.g. ``llama``.
        config: Settings as ``key=value``; the value is read as JSON, and as text if it is none. A dot leads into a configuration inside:
            ``text_config.hidden_size=64``.
        device: Where it is built.

    Raises:
        CommandError: If transformers is missing or has no such architecture, if a setting does not exist, or if the model cannot be built.
    """
    transformers = _transformers()
    configuration = _configuration(transformers, name, config)
    with _quietly(transformers), torch.device(device):
        model = _model(transformers, name, configuration)
        return model, _arguments(name, model, configuration)


def _transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise CommandError("hf: targets need transformers: pip install transformers") from error
    return transformers


@contextlib.contextmanager
def _quietly(transformers: Any) -> Iterator[None]:
    """Silence transformers: its advice on configurations is for training."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


# --- configuration ----------------------------------------------------------------------------------------------------------------------


def _configuration(transformers: Any, name: str, config: Sequence[str]) -> Any:
    known = transformers.CONFIG_MAPPING
    if name not in known:
        near = difflib.get_close_matches(name, list(known.keys()), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "its model types are those of config.json on the Hub"
        raise CommandError(f"transformers {transformers.__version__} has no architecture {name!r}; {hint}")
    settings: dict[str, Any] = {}
    with _quietly(transformers):
        defaults = known[name]()
        for setting in config:
            _set(settings, defaults, setting)
        try:
            configuration = transformers.AutoConfig.for_model(name, **settings)
        except Exception as error:  # transformers checks what it is given in many ways
            raise CommandError(f"{name} cannot be configured like this: {described(error)}") from error
        _do_without_timm(transformers, configuration)
    return configuration


def _do_without_timm(transformers: Any, configuration: Any) -> None:
    """Detection models take their ResNet-50 from timm by default; where that is missing, transformers has the same network."""
    backbone = getattr(configuration, "backbone_config", None)
    if backbone is not None and getattr(backbone, "backbone", "") == "resnet50" and importlib.util.find_spec("timm") is None:
        configuration.backbone_config = transformers.ResNetConfig(out_indices=list(backbone.out_indices))


def _set(settings: dict[str, Any], defaults: Any, setting: str) -> None:
    """Add one ``key=value`` to the settings."""
    key, equals, text = setting.partition("=")
    if not (key and equals):
        raise CommandError(f"--config {setting!r} is no key=value, for example num_hidden_layers=2")
    *outer, last = key.split(".")
    for name in outer:
        _check_key(name, defaults, key)
        defaults = getattr(defaults, name, None)
        settings = settings.setdefault(name, {})
        if not isinstance(settings, dict):
            raise CommandError(f"--config {key}: {name} was set to {settings!r}, which has nothing inside")
    _check_key(last, defaults, key)
    try:
        settings[last] = json.loads(text)
    except json.JSONDecodeError:
        settings[last] = text


def _check_key(name: str, config: Any, key: str) -> None:
    """Raise if a configuration does not have the key: transformers accepts any name, and a misspelled one would change nothing."""
    if isinstance(config, Mapping):
        return
    known = {*getattr(config, "attribute_map", {}), *(config.to_dict() if hasattr(config, "to_dict") else ()), "dtype"}
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=3)
    kind = getattr(config, "model_type", "") or type(config).__name__
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise CommandError(f"--config {key}: a configuration of {kind} has no {name!r}{hint}")


# --- model and arguments ----------------------------------------------------------------------------------------------------------------


def _model(transformers: Any, name: str, configuration: Any) -> nn.Module:
    heads = {} if _is_pair(configuration) else _HEADS
    if getattr(configuration, "is_encoder_decoder", False):
        heads = _ENCODER_DECODERS | heads
    auto_class = next((each for each, models in heads.items() if type(configuration) in getattr(transformers, models, {})), "AutoModel")
    try:
        model: nn.Module = getattr(transformers, auto_class).from_config(configuration).eval()
    except Exception as error:  # a configuration that contradicts itself, an optional package that is missing
        raise CommandError(f"{name} cannot be built: {described(error)}") from error
    return model


def _is_pair(configuration: Any) -> bool:
    """Return whether it is a text and a vision model side by side, as CLIP; a language model that reads images has a token for them."""
    has = {part: getattr(configuration, part, None) is not None for part in ("text_config", "vision_config", "image_token_id")}
    return has["text_config"] and has["vision_config"] and not has["image_token_id"]


def _arguments(name: str, model: Any, configuration: Any) -> dict[str, Any]:
    """Return tensors of the usual shapes; their values are never read."""
    parts = [configuration, *(getattr(configuration, f"{part}_config", None) for part in ("text", "vision", "backbone"))]

    def setting(*names: str, default: Any = None) -> Any:
        return next((found for part in parts for each in names if (found := getattr(part, each, None)) is not None), default)

    length = min(_LENGTH, (setting("max_position_embeddings", "n_positions") or 2 * _LENGTH) // 2)
    channels, size = setting("num_channels", default=3), setting("image_size", default=_IMAGE_SIZE)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    examples = {
        "input_ids": torch.ones(1, length, dtype=torch.int64),
        "decoder_input_ids": torch.ones(1, length, dtype=torch.int64),
        "pixel_values": torch.zeros(1, channels, height, width),
        "input_features": torch.zeros(1, setting("num_mel_bins", default=80), 2 * setting("max_source_positions", default=1500)),
        "input_values": torch.zeros(1, 16_000),
    }
    wanted = [model.main_input_name]
    if _is_pair(configuration):
        wanted.append("pixel_values")
    if getattr(configuration, "is_encoder_decoder", False) and "ForConditionalGeneration" in type(model).__name__:
        wanted.append("decoder_input_ids")
    unknown = [each for each in wanted if each not in examples]
    if unknown:
        raise CommandError(
            f"no example of {', '.join(unknown)} is known, which {name} takes; write a function that returns (model, arguments), "
            f"and name it module:function"
        )
    return {each: examples[each] for each in wanted}
