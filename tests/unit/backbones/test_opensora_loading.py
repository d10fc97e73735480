"""Open-Sora's weights: folders in the hub's layout, damaged ones, the hub without a network, given first frames."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import imageio.v3 as iio
import numpy as np
import pytest
import torch
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from PIL import Image
from reference import stdit3 as original
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.backbones.opensora import adapter
from engine.backbones.opensora.adapter import OpenSora
from engine.backbones.opensora.vae import OpenSoraVAE
from engine.compiler import Compiled
from engine.errors import MissingWeights
from engine.media import read_frames
from engine.runner import opened, seeds_of
from engine.spec import ModelChoice
from engine.step import Branch
from engine.weights import Component, is_hub_id, locate
from engine.zoo.text import build_encoder, build_tokenizer, save_text_side

CPU = torch.device("cpu")
PARTS = ("transformer", "vae", "text_encoder", "tokenizer")
HUB_ID = "some-one/open.sora_tiny"

DENOISER_CONFIG: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 48,
    "num_heads": 2,
    "caption_channels": 16,
    "model_max_length": 8,
    "patch_size": [1, 2, 2],
}
VAE_CONFIG: dict[str, Any] = {
    "spatial_block_out_channels": [8, 8],
    "spatial_layers_per_block": 1,
    "spatial_norm_num_groups": 4,
    "temporal_filters": 4,
    "temporal_channel_multipliers": [1, 1, 1],
    "temporal_downsample": [True, True],
    "temporal_res_blocks": 1,
    "temporal_norm_num_groups": 2,
}
# What transformers' save_pretrained adds, and fields of the original's own pipeline classes.
DENOISER_EXTRAS: dict[str, Any] = {
    "architectures": ["STDiT3"],
    "model_type": "STDiT3",
    "torch_dtype": "float32",
    "transformers_version": "4.36.2",
    "input_size": [None, None, None],
    "enable_flash_attn": True,
    "drop_path": 0.0,
}
VAE_EXTRAS: dict[str, Any] = {
    "architectures": ["VideoAutoencoderPipeline"],
    "model_type": "VideoAutoencoderPipeline",
    "torch_dtype": "float32",
    "cal_loss": False,
    "freeze_vae_2d": False,
    "scale": [3.0, 2.0, 2.5, 3.5],
    "shift": [-0.1, 0.3, 0.2, 0.9],
    "vae_2d": {"type": "VideoAutoencoderKL", "from_pretrained": "x", "subfolder": "vae", "micro_batch_size": 2},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the hub's layout; tests must not change it."""
    root = tmp_path_factory.mktemp("hub")
    config = original.Config(**{**DENOISER_CONFIG, "patch_size": (1, 2, 2)})
    write_part(root / "transformer", {**DENOISER_CONFIG, **DENOISER_EXTRAS}, original.random_state(config))
    torch.manual_seed(0)
    vae = OpenSoraVAE.from_config({**VAE_CONFIG, **VAE_EXTRAS})
    write_part(root / "vae", {**VAE_CONFIG, **VAE_EXTRAS}, vae.state_dict())
    tokenizer = build_tokenizer(["a red cat", "the dog runs"])
    save_text_side(tokenizer, build_encoder(len(tokenizer), width=16, layers=1, heads=2), root)
    return root


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(saved, tmp_path / "weights"))


def write_part(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def sketched(weights: Path | str | dict[str, str], dtype: Any = "float32") -> OpenSora:
    choice = ModelChoice(
        backbone="opensora", weights=weights if isinstance(weights, dict) else str(weights), dtype=dtype
    )
    return OpenSora.sketch(choice)


def loaded(weights: Path | str | dict[str, str], dtype: Any = "float32") -> OpenSora:
    backbone = sketched(weights, dtype)
    backbone.load(CPU)
    return backbone


def refused(weights: Path | str | dict[str, str]) -> str:
    """The message of the `MissingWeights` that loading raises."""
    with pytest.raises(MissingWeights) as caught:
        loaded(weights)
    assert all(problem.remedy for problem in caught.value.problems)
    return str(caught.value)


def assert_holds(backbone: OpenSora, saved: Path) -> None:
    """The backbone has exactly the saved tensors, ready to run, and reads text."""
    for module, part in ((backbone.model, "transformer"), (backbone.vae, "vae")):
        wanted, state = load_file(saved / part / "model.safetensors"), module.state_dict()
        assert state.keys() == wanted.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in wanted.items())
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
        assert {parameter.device for parameter in module.parameters()} == {CPU}
    assert backbone.device == CPU
    assert backbone.text is not None
    features, mask = backbone.text(["a red cat", "the dog"], 8)
    assert features.shape == (2, 8, 16)
    assert features.dtype == torch.float32
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0]]
    assert not torch.allclose(features[0, 0], features[1, 0])


# ---------------------------------------------------------------- folders


def test_one_folder_with_sub_folders(saved: Path) -> None:
    backbone = sketched(saved)
    assert {parameter.device.type for parameter in backbone.model.parameters()} == {"meta"}
    assert backbone.vae.latent_shape(17, 16, 24) == (4, 5, 8, 12), "the sketch knows the sizes of config.json"
    backbone.load(CPU)
    assert_holds(backbone, saved)


def test_mapping_of_components_to_folders(folder: Path, saved: Path) -> None:
    for index, part in enumerate(PARTS):
        (folder / part).rename(folder / f"part {index}")
    assert_holds(loaded({part: str(folder / f"part {index}") for index, part in enumerate(PARTS)}), saved)


def test_relative_folder_with_a_name_like_a_hub_id(folder: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)
    name = f"{folder.parent.name}/{folder.name}"
    assert not is_hub_id(name)
    assert is_hub_id(f"{name}-that-is-not-there")
    assert_holds(loaded(name), saved)


def test_loaded_weights_compute_what_the_reference_does(saved: Path) -> None:
    backbone = loaded(saved)
    inputs = backbone.inputs(prompts=["a red cat", "the dog"], num_frames=17, height=18, width=22, fps=24)
    run = backbone.shape(inputs, steps=4)
    conditions = backbone.encode(inputs, run)
    x = backbone.initial_noise(run, [1, 2])
    ours = backbone.predict(x, 0.75, conditions, (Branch.COND, Branch.UNCOND))
    assert backbone.text is not None
    features, mask = backbone.text(inputs.prompts, 8)
    state = load_file(saved / "transformer" / "model.safetensors")
    null = state["y_embedder.y_embedding"].expand_as(features)
    theirs = original.forward(
        state,
        original.Config(**{**DENOISER_CONFIG, "patch_size": (1, 2, 2)}),
        torch.cat([x, x]),
        torch.full((4,), 750.0),
        torch.cat([features, null])[:, None],
        mask,
        fps=torch.tensor([24.0, 24.0]),
        height=torch.tensor([18.0, 18.0]),
        width=torch.tensor([22.0, 22.0]),
    )
    torch.testing.assert_close(ours, theirs[:, :4], atol=1e-5, rtol=0)
    only_uncond = backbone.predict(x, 0.75, conditions, (Branch.UNCOND,))
    torch.testing.assert_close(only_uncond, theirs[2:, :4], atol=1e-5, rtol=0)


@pytest.mark.parametrize("part", ["transformer", "vae"])
@pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model"])
def test_shards_with_an_index(part: str, stem: str, folder: Path, saved: Path) -> None:
    into_shards(folder / part, stem)
    assert_holds(loaded(folder), saved)


def test_file_named_as_diffusers_does(folder: Path, saved: Path) -> None:
    single = folder / "transformer" / "model.safetensors"
    single.rename(single.with_name("diffusion_pytorch_model.safetensors"))
    assert_holds(loaded(folder), saved)


@pytest.mark.parametrize("stored", [torch.float16, torch.float32])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_get_the_dtype_that_was_asked_for(stored: torch.dtype, dtype: str, folder: Path) -> None:
    rewrite(folder / "transformer", lambda tensors: {name: tensor.to(stored) for name, tensor in tensors.items()})
    backbone = loaded(folder, dtype)
    wanted = getattr(torch, dtype)
    assert {tensor.dtype for tensor in backbone.model.state_dict().values()} == {wanted}
    assert {tensor.dtype for tensor in backbone.vae.state_dict().values()} == {wanted}
    tensors = load_file(folder / "transformer" / "model.safetensors")
    assert torch.equal(backbone.model.t_block[1].weight, tensors["t_block.1.weight"].to(wanted))


def test_files_of_a_run_are_named(folder: Path) -> None:
    into_shards(folder / "transformer", "model")
    files = loaded(folder).weight_files()
    assert sorted(files) == [
        "text_encoder/model.safetensors",
        "transformer/model-00001-of-00002.safetensors",
        "transformer/model-00002-of-00002.safetensors",
        "vae/model.safetensors",
    ]
    assert all(path.is_file() for path in files.values())


def test_text_encoder_as_it_is_published(folder: Path, saved: Path) -> None:
    """The component's patterns allow `.bin` files: T5 v1.1 is older than safetensors."""
    into_pickle(folder / "text_encoder")
    assert_holds(loaded(folder), saved)


def test_pickled_files_of_a_run_are_named(folder: Path) -> None:
    into_pickle(folder / "text_encoder")
    assert "text_encoder/pytorch_model.bin" in loaded(folder).weight_files()


def test_published_config_fields_raise_no_warning(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    sketched(saved)
    assert caplog.messages == []


# ---------------------------------------------------------------- damage


def rewrite(part: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    tensors = load_file(part / "model.safetensors")
    # A new file: the loaded tensors are views of the old one.
    (part / "model.safetensors").unlink()
    save_file(change(tensors), part / "model.safetensors", metadata={"format": "pt"})


def into_pickle(part: Path) -> None:
    torch.save(load_file(part / "model.safetensors"), part / "pytorch_model.bin")
    (part / "model.safetensors").unlink()


def into_shards(part: Path, stem: str) -> list[Path]:
    """Replace the single file by two shards and an index."""
    tensors = load_file(part / "model.safetensors")
    names = sorted(tensors)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    files = [part / f"{stem}-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for file, half in zip(files, halves, strict=True):
        save_file({name: tensors[name] for name in half}, file, metadata={"format": "pt"})
    weight_map = {name: file.name for file, half in zip(files, halves, strict=True) for name in half}
    index = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    (part / f"{stem}.safetensors.index.json").write_text(index, encoding="utf-8")
    (part / "model.safetensors").unlink()
    return files


A_MATRIX = {
    "transformer": "t_block.1.weight",
    "vae": "temporal_vae.quant_conv.conv.weight",
    "text_encoder": "encoder.block.0.layer.0.SelfAttention.k.weight",
}


def drop_tensor(part: Path) -> str:
    rewrite(part, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != A_MATRIX[part.name]})
    return A_MATRIX[part.name]


def add_tensor(part: Path) -> str:
    rewrite(part, lambda tensors: {**tensors, "left.over": torch.zeros(2)})
    return "left.over"


def reshape_tensor(part: Path) -> str:
    rewrite(part, lambda tensors: {**tensors, A_MATRIX[part.name]: torch.zeros(3, 5)})
    return A_MATRIX[part.name]


def truncate(part: Path) -> str:
    file = part / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    return str(file)


def truncate_shard(part: Path) -> str:
    file = into_shards(part, "model")[1]
    file.write_bytes(file.read_bytes()[:-50])
    return str(file)


def empty_weights(part: Path) -> str:
    (part / "model.safetensors").write_bytes(b"")
    return str(part / "model.safetensors")


def remove_weights(part: Path) -> str:
    (part / "model.safetensors").unlink()
    return str(part)


def remove_shard(part: Path) -> str:
    file = into_shards(part, "model")[1]
    file.unlink()
    return file.name


def remove_config(part: Path) -> str:
    (part / "config.json").unlink()
    return "config.json"


def break_config(part: Path) -> str:
    (part / "config.json").write_text('{"depth": ', encoding="utf-8")
    return str(part / "config.json")


def list_config(part: Path) -> str:
    (part / "config.json").write_text("[1]", encoding="utf-8")
    return str(part / "config.json")


def binary_config(part: Path) -> str:
    (part / "config.json").write_bytes(b"\xff\xfe\x00")
    return str(part / "config.json")


def break_index(part: Path) -> str:
    into_shards(part, "model")
    (part / "model.safetensors.index.json").write_text("{", encoding="utf-8")
    return "index.json"


def empty_index(part: Path) -> str:
    into_shards(part, "model")
    (part / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    return "index.json"


def remove_folder(part: Path) -> str:
    shutil.rmtree(part)
    return str(part)


DAMAGES = (
    *(drop_tensor, add_tensor, reshape_tensor),
    *(truncate, truncate_shard, empty_weights, remove_weights, remove_shard),
    *(remove_config, break_config, list_config, binary_config),
    remove_folder,
)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_damage_is_named(part: str, damage: Callable[[Path], str], folder: Path) -> None:
    named = damage(folder / part)
    assert named in refused(folder)


@pytest.mark.parametrize("damage", [break_index, empty_index], ids=lambda damage: damage.__name__)
def test_damaged_index_is_named(damage: Callable[[Path], str], folder: Path) -> None:
    named = damage(folder / "transformer")
    assert named in refused(folder)


@pytest.mark.parametrize(
    "damage",
    [
        drop_tensor,
        reshape_tensor,
        truncate,
        remove_weights,
        remove_shard,
        remove_config,
        break_config,
        remove_folder,
    ],
    ids=lambda damage: damage.__name__,
)
def test_damage_to_the_text_encoder_is_named(damage: Callable[[Path], str], folder: Path) -> None:
    named = damage(folder / "text_encoder")
    assert named in refused(folder)


def test_missing_tokenizer_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")
    backbone = sketched(folder)
    with pytest.raises(MissingWeights, match="tokenizer"):
        backbone.load(CPU)
    kept = {parameter.device.type for parameter in backbone.model.parameters()}
    assert kept == {"meta"}, "all folders are found before the first tensor is read"


def test_empty_tokenizer_folder_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    assert "tokenizer" in refused(folder)


def test_encoder_of_another_width_is_named(folder: Path) -> None:
    tokenizer = build_tokenizer(["a red cat"])
    shutil.rmtree(folder / "text_encoder")
    save_text_side(tokenizer, build_encoder(len(tokenizer), width=32, layers=1, heads=2), folder)
    assert "text_encoder" in refused(folder)


@pytest.mark.parametrize("field", [{"skip_y_embedder": True}, {"num_heads": 5}, {"depth": "two"}], ids=str)
def test_config_that_no_model_can_have_is_named(field: dict[str, Any], folder: Path) -> None:
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text(encoding="utf-8")), **field}), encoding="utf-8")
    assert "config.json" in refused(folder)


def test_all_findings_come_at_once_and_long_lists_are_cut(folder: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("temporal_blocks.0.attn")}
        return {**kept, "left.over": torch.zeros(1), "t_block.1.bias": torch.zeros(7)}

    rewrite(folder / "transformer", change)
    with pytest.raises(MissingWeights) as caught:
        loaded(folder)
    rules = [problem.rule for problem in caught.value.problems]
    assert len(rules) == 3
    assert "6 tensors are missing: temporal_blocks.0.attn.k_norm.weight, " in rules[0]
    assert "1 tensors are unexpected: left.over" in rules[1]
    assert "t_block.1.bias [7] instead of [288]" in rules[2]
    rewrite(folder / "transformer", lambda tensors: {"t_block.1.bias": tensors["t_block.1.bias"]})
    assert refused(folder).splitlines()[0].endswith(", ...")


def test_weights_of_another_size_than_the_config_say_are_refused(folder: Path) -> None:
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps({**DENOISER_CONFIG, "depth": 2}), encoding="utf-8")
    assert "spatial_blocks.1." in refused(folder)


def test_denoiser_that_cannot_be_read_changes_nothing(folder: Path) -> None:
    drop_tensor(folder / "transformer")
    backbone = sketched(folder)
    with pytest.raises(MissingWeights):
        backbone.load(CPU)
    assert {parameter.device.type for parameter in backbone.model.parameters()} == {"meta"}


def test_vae_that_cannot_be_read_changes_nothing(folder: Path) -> None:
    drop_tensor(folder / "vae")
    backbone = sketched(folder)
    with pytest.raises(MissingWeights):
        backbone.load(CPU)
    assert {parameter.device.type for parameter in backbone.model.parameters()} == {"meta"}


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    message = refused(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere" / "transformer") in message
    assert "hub id" in message


@pytest.mark.parametrize("part", PARTS)
def test_component_that_the_mapping_forgets(part: str, saved: Path) -> None:
    message = refused({name: str(saved / name) for name in PARTS if name != part})
    assert f"`{part}`" in message


# ---------------------------------------------------------------- the hub

WITHOUT_NETWORK = "the hub cannot be reached"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nothing is cached and the hub cannot be reached; holds the ids that were asked for over the network."""
    asked: list[str] = []

    def snapshot_download(repo_id: str, *, local_files_only: bool, **_options: Any) -> str:
        if not local_files_only:
            asked.append(repo_id)
        raise LocalEntryNotFoundError(WITHOUT_NETWORK)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


@pytest.fixture
def online(saved: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """The hub has one repository, `saved`, and one a component, `some-one/NAME`; holds the calls."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def snapshot_download(repo_id: str, **options: Any) -> str:
        calls.append((repo_id, options))
        return str(saved if repo_id == HUB_ID else saved / repo_id.partition("/")[2])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_hub_id_without_network_says_what_to_download_and_where(offline: list[str]) -> None:
    backbone = sketched(HUB_ID)
    assert offline == [], "sizes of the published checkpoint need no network"
    with pytest.raises(MissingWeights) as caught:
        backbone.load(CPU)
    message = str(caught.value)
    assert offline == [HUB_ID]
    assert f"https://huggingface.co/{HUB_ID}" in message
    assert "transformer/*.json, transformer/*.safetensors" in message
    assert "--set model.weights=FOLDER" in message
    assert {parameter.device.type for parameter in backbone.model.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("part", "files"), [("text_encoder", "*.json, *.safetensors, *.bin"), ("tokenizer", "*.json, *.model")]
)
def test_component_on_the_hub_without_network(part: str, files: str, saved: Path, offline: list[str]) -> None:
    message = refused({**{name: str(saved / name) for name in PARTS}, part: f"some-one/{part}"})
    assert offline == [f"some-one/{part}"]
    assert f"download {files} from https://huggingface.co/some-one/{part}" in message
    assert f"--set model.weights.{part}=FOLDER" in message


class HttpError(Exception):
    """Errors of the hub's HTTP client are no OSErrors: a proxy that refuses, a connection lost half-way."""


@pytest.mark.parametrize(
    "error",
    [
        OSError("disk full"),
        ConnectionError("offline mode"),
        HttpError("connection lost"),
        HFValidationError("`--` in a name"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_failures_of_a_download(error: Exception, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    message = refused({**{name: str(saved / name) for name in PARTS}, "tokenizer": "some-one/tokenizer"})
    assert type(error).__name__ in message


def test_text_side_from_the_hub(saved: Path, online: list[tuple[str, dict[str, Any]]]) -> None:
    local = {name: str(saved / name) for name in ("transformer", "vae")}
    assert_holds(loaded({**local, "text_encoder": "some-one/text_encoder", "tokenizer": "some-one/tokenizer"}), saved)
    assert online == [
        (
            "some-one/text_encoder",
            {"allow_patterns": ["*.json", "*.safetensors", "*.bin"], "local_files_only": False},
        ),
        ("some-one/tokenizer", {"allow_patterns": ["*.json", "*.model"], "local_files_only": False}),
    ]


def small_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub id is sketched with the published sizes; let those be small here."""
    sizes = {"transformer": DENOISER_CONFIG, "vae": {**VAE_CONFIG, **VAE_EXTRAS}}
    monkeypatch.setattr(adapter, "config_at_hand", lambda _choice, component, _backbone: sizes[component.name])


def test_whole_model_from_the_hub(
    saved: Path, online: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_as_published(monkeypatch)
    assert_holds(loaded(HUB_ID), saved)
    assert [repo for repo, _ in online] == [HUB_ID] * 4
    assert online[0][1]["allow_patterns"] == [
        "transformer/*.json",
        "transformer/*.safetensors",
        "transformer/*.safetensors.index.json",
    ]


def test_components_from_hub_repositories_of_their_own(
    saved: Path, online: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the published weights are: denoiser, VAE and T5 each in a repository of their own."""
    small_as_published(monkeypatch)
    assert_holds(loaded({part: f"some-one/{part}" for part in PARTS}), saved)
    assert [repo for repo, _ in online] == [f"some-one/{part}" for part in PARTS]


def test_hub_repository_of_another_size(saved: Path, online: list[tuple[str, dict[str, Any]]]) -> None:
    assert online == []
    assert_holds(loaded(HUB_ID), saved)


def test_sub_folder_that_the_hub_repository_lacks(saved: Path, online: list[tuple[str, dict[str, Any]]]) -> None:
    with pytest.raises(MissingWeights, match="upscaler"):
        locate(HUB_ID, Component("upscaler"), "opensora")
    assert online[0][1]["allow_patterns"][0] == "upscaler/*.json"


@pytest.mark.parametrize("download", [True, False])
def test_cache_alone_can_be_asked(download: bool, saved: Path, online: list[tuple[str, dict[str, Any]]]) -> None:
    assert locate(HUB_ID, Component("vae"), "opensora", download=download) == saved / "vae"
    assert online[0][1]["local_files_only"] is not download


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hpcai-tech/OpenSora-STDiT-v3", True),
        ("PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers", True),
        ("embedded", False),
        ("./weights/opensora", False),
        ("../weights", False),
        ("/data/weights", False),
        ("~/weights", False),
        ("a/b/c", False),
        ("", False),
    ],
)
def test_what_reads_as_a_hub_id(source: str, expected: bool) -> None:
    assert is_hub_id(source) is expected


# ---------------------------------------------------------------- given first frames

CompileTiny = Callable[..., Compiled]


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def generated(compiled: Compiled) -> tuple[Tensor, list[Tensor | None]]:
    """Latents of a whole run, and the frame masks that the denoiser was given."""
    masks: list[Tensor | None] = []

    def note(_module: Any, _arguments: Any, named: dict[str, Any]) -> None:
        masks.append(named["x_mask"])

    handle = compiled.backbone.model.register_forward_pre_hook(note, with_kwargs=True)
    with opened(compiled) as run:
        latents = run.generate(seeds_of(compiled))
    handle.remove()
    return latents, masks


def known_latents(compiled: Compiled, path: Path, frames: int) -> Tensor:
    backbone = compiled.backbone
    assert isinstance(backbone, OpenSora)
    clip = read_frames(path, compiled.run.pixels[1:])[None, :, :frames] * 2 - 1
    with torch.inference_mode():
        return backbone.vae.encode(clip, sample=False)


def test_picture_stays_the_first_latent_frame(compile_tiny: CompileTiny, tmp_path: Path) -> None:
    reference = picture(tmp_path / "first.png")
    compiled = compile_tiny("opensora", inputs={"reference": str(reference)})
    given = compiled.backbone.given(compiled.inputs, compiled.run, seeds_of(compiled))
    known = known_latents(compiled, reference, 1)
    assert given is not None
    assert known.shape == (1, 4, 1, 4, 6)
    assert given.mask.tolist() == [[0.0, 1.0, 1.0, 1.0, 1.0]] * 2
    assert torch.equal(given.latents[:, :, :1], known.expand(2, -1, -1, -1, -1))

    latents, masks = generated(compiled)
    assert torch.equal(latents[:, :, :1], known.expand(2, -1, -1, -1, -1))
    assert len(masks) == compiled.run.steps
    assert all(mask is not None and mask.tolist() == [[False, True, True, True, True]] * 4 for mask in masks)

    free, free_masks = generated(compile_tiny("opensora"))
    assert free_masks == [None] * compiled.run.steps
    assert not torch.allclose(free[:, :, 0], latents[:, :, 0], atol=0.1)
    assert not torch.allclose(free[:, :, 1:], latents[:, :, 1:], atol=1e-3), "the other frames follow the given one"
    assert torch.isfinite(latents).all()


def test_edited_picture_joins_later(compile_tiny: CompileTiny, tmp_path: Path) -> None:
    reference = picture(tmp_path / "first.png")
    compiled = compile_tiny("opensora", inputs={"reference": str(reference), "reference_edit": 0.5})
    latents, masks = generated(compiled)
    assert not torch.allclose(latents[:, :, :1], known_latents(compiled, reference, 1), atol=1e-3)
    times = compiled.sampler.times(compiled.run)
    assert [mask is not None and bool(mask[0, 0]) for mask in masks] == [time <= 0.5 for time in times]
    assert {time <= 0.5 for time in times} == {True, False}


def test_video_gives_as_many_latent_frames_as_it_has(compile_tiny: CompileTiny, tmp_path: Path) -> None:
    reference = tmp_path / "first.gif"
    frames = np.random.default_rng(0).integers(0, 256, (20, 16, 24, 3), dtype=np.uint8)
    iio.imwrite(reference, frames, duration=50, loop=0, plugin="pillow")
    compiled = compile_tiny("opensora", inputs={"reference": str(reference), "num_frames": 34})
    latents, masks = generated(compiled)
    known = known_latents(compiled, reference, 17)
    assert latents.shape[2] == 10
    assert torch.equal(latents[:, :, :5], known.expand(2, -1, -1, -1, -1))
    assert all(mask is not None and mask[0].tolist() == [False] * 5 + [True] * 5 for mask in masks)


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "LA"])
def test_pictures_of_every_kind_give_a_frame(mode: str, compile_tiny: CompileTiny, tmp_path: Path) -> None:
    reference = picture(tmp_path / "first.png", mode)
    compiled = compile_tiny("opensora", inputs={"reference": str(reference)})
    given = compiled.backbone.given(compiled.inputs, compiled.run, seeds_of(compiled))
    assert given is not None
    assert bool(given.latents[:, :, 0].abs().amax() > 0)
