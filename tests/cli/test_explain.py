"""`fxkernels explain`: its outputs, other machines, and architectures of transformers without weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fxkernels.cli import main
from fxkernels.cli.factory import load_target
from fxkernels.cli.output import CommandError
from fxkernels.report.report import Report

TESTS = Path(__file__).parent.parent
TINY = ("hidden_size=32", "intermediate_size=64", "num_hidden_layers=1", "num_attention_heads=4", "num_key_value_heads=2", "vocab_size=99")
DECODER = "small:build"

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs `fxkernels explain` in 80 columns, in a folder that has the module `small`."""
    (tmp_path / "small.py").write_text("from fxkernels.demo_model import decoder\n\ndef build():\n    return decoder(length=8, layers=1)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield lambda *arguments: CliRunner(env={"COLUMNS": "80"}).invoke(main, ["explain", *arguments])
    sys.modules.pop("small", None)


def with_config(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--config", setting)]


def test_why_explains_one_call_and_prints_nothing_else(run: Run) -> None:
    result = run(DECODER, "--why", "layers.0.mlp.activation", "--no-builtin")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("layers.0.mlp.activation keeps its original layer: no_mapping")
    assert result.stdout.endswith("It would match with a kernel mapped to 'SiluAndMul'.\n")


def test_why_with_a_name_that_does_not_exist_suggests_the_nearest(run: Run) -> None:
    result = run(DECODER, "--why", "layers.0.input_layernrom")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "did you mean layers.0.input_layernorm" in result.stderr


def test_diff_prints_the_diff_and_nothing_else(run: Run) -> None:
    result = run(DECODER, "--diff")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("--- Decoder\n+++ Decoder with kernels\n@@ layers.0.input_layernorm  RMSNorm  ")


def test_json_and_html_are_written_beside_the_report(run: Run, tmp_path: Path) -> None:
    result = run(DECODER, "--json", "plan.json", "--html", "report.html")
    assert result.exit_code == 0, result.output
    assert len(Report.from_json((tmp_path / "plan.json").read_text()).calls) == 5
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert "layers.0.input_layernorm" in result.stdout
    assert sorted(result.stderr.splitlines()) == ["wrote plan.json", "wrote report.html"]


def test_json_on_standard_output_is_nothing_but_json(run: Run) -> None:
    result = run(DECODER, "--json", "-")
    assert json.loads(result.stdout)


@pytest.mark.parametrize(("option", "file"), [("--json", "plan.txt"), ("--html", "report.pdf"), ("--html", "no/such/folder/report.html")])
def test_a_file_that_cannot_be_written_is_one_sentence(run: Run, option: str, file: str) -> None:
    result = run(DECODER, option, file)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert file in result.stderr


def test_several_targets_make_a_table(run: Run) -> None:
    result = run(DECODER, "--for", "cuda:sm90 torch2.12", "--for", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1].split() == ["cuda:sm90", "torch2.12", "cpu", "torch" + torch_version()]
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_why_is_answered_for_each_target(run: Run) -> None:
    result = run(DECODER, "--for", "cuda:sm90", "--for", "xpu", "--why", "norm")
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines() if "linux-x86_64" in line and line[0] != " "] == ["cuda:sm90", "xpu"]


def test_what_shows_one_report_takes_one_target(run: Run) -> None:
    result = run(DECODER, "--for", "cuda:sm90", "--for", "cpu", "--diff")
    assert result.exit_code == 2
    assert "give --for once" in result.stderr


def test_a_target_that_makes_no_sense_is_one_sentence(run: Run) -> None:
    result = run(DECODER, "--for", "cuba:sm90")
    assert result.exit_code == 2
    assert "'cuba', which is no device type" in result.stderr


def test_help_has_examples_within_80_columns(run: Run) -> None:
    result = run("--help")
    assert "fxkernels explain hf:llama" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


# --- architectures ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def transformers() -> object:
    return pytest.importorskip("transformers")


@pytest.mark.usefixtures("transformers")
def test_an_architecture_is_explained_without_weights(run: Run) -> None:
    result = run("hf:llama", *with_config(*TINY))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("hf:llama: LlamaForCausalLM in eval mode\n")
    assert "layers.0.self_attn.rotary_pos_emb" in result.stdout
    assert result.stderr == ""


@pytest.mark.usefixtures("transformers")
def test_a_model_of_full_size_costs_no_memory() -> None:
    model, arguments = load_target("hf:llama", ["num_hidden_layers=80", "hidden_size=8192"])
    assert sum(parameter.numel() for parameter in model.parameters()) > 2e10
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert arguments["input_ids"].shape == (1, 128)


@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("hf:lama", (), "has no architecture 'lama'; did you mean llama"),
        ("hf:llama", ("num_hiden_layers=2",), "a configuration of llama has no 'num_hiden_layers'; did you mean num_hidden_layers?"),
        ("hf:clip", ("text_config.hiden_size=2",), "a configuration of clip_text_model has no 'hiden_size'; did you mean hidden_size"),
        ("hf:llama", ("num_hidden_layers",), "'num_hidden_layers' is no key=value"),
        ("hf:llama", ("hidden_size=33",), "llama cannot be configured like this: "),
        ("hf:llama", ("hidden_act=sillu",), "llama cannot be "),
        (DECODER, ("layers=2",), "--config is for hf: targets"),
    ],
)
def test_an_architecture_that_cannot_be_built_is_one_sentence(name: str, settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(CommandError) as caught:
        load_target(name, settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("transformers")
def test_settings_are_json_or_text_and_reach_configurations_inside() -> None:
    settings = [
        "text_config.num_hidden_layers=1",
        'vision_config={"num_hidden_layers": 1, "image_size": 64}',
        "text_config.hidden_act=gelu",
    ]
    model, arguments = load_target("hf:clip", settings)
    assert model.config.text_config.num_hidden_layers == model.config.vision_config.num_hidden_layers == 1
    assert model.config.text_config.hidden_act == "gelu"
    assert {name: tuple(value.shape) for name, value in arguments.items()} == {"input_ids": (1, 38), "pixel_values": (1, 3, 64, 64)}


@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize(
    ("name", "model_class", "arguments"),
    [
        ("roberta", "RobertaForMaskedLM", ["input_ids"]),
        ("t5", "T5ForConditionalGeneration", ["input_ids", "decoder_input_ids"]),
        ("whisper", "WhisperForConditionalGeneration", ["input_features", "decoder_input_ids"]),
        ("vit", "ViTForImageClassification", ["pixel_values"]),
        ("wav2vec2", "Wav2Vec2ForCTC", ["input_values"]),
        ("llava", "LlavaForConditionalGeneration", ["input_ids"]),
        ("deformable_detr", "DeformableDetrForObjectDetection", ["pixel_values"]),
    ],
)
def test_each_kind_of_architecture_gets_the_arguments_that_it_takes(name: str, model_class: str, arguments: list[str]) -> None:
    model, found = load_target(f"hf:{name}")
    assert (type(model).__name__, list(found)) == (model_class, arguments)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize("name", [model["name"] for model in json.loads((TESTS / "corpus.json").read_text())["models"]])
def test_every_architecture_of_the_corpus_can_be_explained(run: Run, name: str) -> None:
    import corpus

    spec = corpus.MODELS[name]
    result = run(
        f"hf:{spec['model_type']}", *with_config(*(f"{key}={json.dumps(value)}" for key, value in spec["config"].items())), "--json", "-"
    )
    assert result.exit_code == 0, result.output
    calls = [call for call in Report.from_json(result.stdout).calls if call.status != "not_captured"]
    assert {call.layer_name for call in calls} == set(corpus.layer_calls(name))


@pytest.mark.slow
@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize("name", ["llama", "qwen3_next"])
def test_without_the_kernels_package_an_architecture_has_the_same_calls_and_the_report_says_where_they_are_annotated(
    tmp_path: Path, run: Run, name: str
) -> None:
    import corpus

    (tmp_path / "sitecustomize.py").write_text(
        "import transformers.utils.import_utils as utils\nutils.is_kernels_available = lambda *versions: False\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(TESTS.parent)])}
    settings = with_config(*(f"{key}={json.dumps(value)}" for key, value in corpus.MODELS[name]["config"].items()))
    arguments = [f"hf:{name}", *settings, "--json", "-"]
    command = [sys.executable, "-m", "fxkernels", "explain", *arguments]
    without = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    found, expected = Report.from_json(without.stdout), Report.from_json(run(*arguments).stdout)
    assert Counter(call.layer_name for call in found.calls) == corpus.layer_calls(name)
    assert {call.annotation.rpartition("/")[2].partition(":")[0] for call in found.calls} <= {f"modeling_{name}.py", "activations.py"}
    assert [replace(call, annotation="") for call in found.calls] == [replace(call, annotation="") for call in expected.calls]


def torch_version() -> str:
    import torch

    return ".".join(torch.__version__.split(".")[:2])
