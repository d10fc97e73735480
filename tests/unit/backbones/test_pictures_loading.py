"""DiT, PixArt and Latte from folders in the hub's layout, and the classes that prompts name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from support import BACKBONES

from engine.backbones import dit
from engine.backbones.common.pictures import PictureTransformer
from engine.errors import MissingWeights
from engine.spec import ModelChoice
from engine.zoo.files import save_half, save_index
from engine.zoo.text import build_encoder, build_tokenizer, save_text_side

CPU = torch.device("cpu")
LABELS = {"0": "tench, Tinca tinca", "1": "goldfish", "207": "golden retriever"}
on_all = pytest.mark.parametrize("name", ["dit", "pixart", "latte"])


def saved(name: str, folder: Path) -> Path:
    """The tiny backbone, written as its repository would hold it."""
    tiny = BACKBONES[name].tiny()
    save_half(tiny.model, folder / "transformer")
    save_half(tiny.vae, folder / "vae")
    tokenizer = build_tokenizer(["a red cat", "the dog"])
    torch.manual_seed(0)
    save_text_side(tokenizer, build_encoder(len(tokenizer), width=16), folder)
    save_index(folder, "DiTPipeline", {"id2label": LABELS})
    return folder


def loaded(name: str, weights: str | dict[str, str]) -> PictureTransformer:
    backbone = BACKBONES[name].sketch(ModelChoice(backbone=name, weights=weights))
    backbone.load(CPU)
    return backbone


@on_all
def test_folder_in_the_hubs_layout(name: str, tmp_path: Path) -> None:
    folder = saved(name, tmp_path)
    backbone = loaded(name, str(folder))
    for module, part in ((backbone.model, "transformer"), (backbone.vae, "vae")):
        wanted, state = load_file(folder / part / "model.safetensors"), module.state_dict()
        assert state.keys() == wanted.keys()
        assert all(torch.equal(state[key], tensor.float()) for key, tensor in wanted.items())
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
    prompts = ["goldfish", "207"] if name == "dit" else ["a red cat", "the dog"]
    inputs = backbone.inputs(prompts=prompts)
    run = backbone.shape(inputs, 1)
    with torch.inference_mode():
        x = backbone.initial_noise(run, [0, 1])
        out = backbone.predict(x, 0.5, backbone.encode(inputs, run), run.branches)
    assert torch.isfinite(out).all() and not torch.equal(out[0], out[1])
    expected = {"transformer/model.safetensors", "vae/model.safetensors"}
    expected |= set() if name == "dit" else {"text_encoder/model.safetensors"}
    assert backbone.weight_files().keys() == expected


@on_all
def test_mapping_of_components_to_folders(name: str, tmp_path: Path) -> None:
    folder = saved(name, tmp_path)
    parts = {part.name: str(folder / part.name) for part in BACKBONES[name].components}
    assert loaded(name, parts).weight_files() == loaded(name, str(folder)).weight_files()


@on_all
def test_damaged_folders_are_explained(name: str, tmp_path: Path) -> None:
    folder = saved(name, tmp_path)
    (folder / "vae" / "model.safetensors").unlink()
    with pytest.raises(MissingWeights, match="vae holds no weights"):
        loaded(name, str(folder))
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(MissingWeights, match=r"vae has no config\.json"):
        BACKBONES[name].sketch(ModelChoice(backbone=name, weights=str(folder)))


@on_all
def test_config_that_came_after_the_plan_must_agree(name: str, tmp_path: Path) -> None:
    folder = saved(name, tmp_path)
    backbone = BACKBONES[name].sketch(ModelChoice(backbone=name, weights=str(folder)))
    config = json.loads((folder / "transformer" / "config.json").read_text())
    (folder / "transformer" / "config.json").write_text(json.dumps({**config, "norm_eps": 0.5}))
    with pytest.raises(MissingWeights, match="another norm_eps than the plan") as caught:
        backbone.load(CPU)
    assert "run again" in str(caught.value)


def test_hub_repository_is_sketched_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is downloaded."""

    def absent(*_: Any, **__: Any) -> Any:
        raise MissingWeights([])

    monkeypatch.setattr("engine.backbones.common.configs.locate", absent)
    for repository, edge in (("facebook/DiT-XL-2-256", 256), ("facebook/DiT-XL-2-512", 512), ("other/name", 256)):
        sketch = BACKBONES["dit"].sketch(ModelChoice(backbone="dit", weights=repository))
        assert sketch.shape(sketch.inputs(prompts=["1"]), 1).pixels == (1, edge, edge)
    sketch = BACKBONES["pixart"].sketch(ModelChoice(backbone="pixart", weights="PixArt-alpha/PixArt-XL-2-512x512"))
    assert sketch.shape(sketch.inputs(prompts=["x"]), 1).latent == (4, 64, 64)
    sketch = BACKBONES["latte"].sketch(ModelChoice(backbone="latte", weights="maxin-cn/Latte-1"))
    assert sketch.shape(sketch.inputs(prompts=["x"]), 1).latent == (4, 16, 64, 64)


def test_size_conditions_of_the_1024_pixel_model() -> None:
    """Resolution and aspect ratio reach the model, row by row."""
    kind = BACKBONES["pixart"]
    model = kind.denoiser.from_config(
        {**kind.tiny_config, "num_attention_heads": 2, "attention_head_dim": 24, "use_additional_conditions": True}
    )
    tiny = kind(ModelChoice(backbone="pixart", weights="random"), model.eval(), kind.tiny().vae_config)
    tiny.load_conditioner({})
    tiny.device = CPU
    seen = []
    for height, width in ((16, 24), (24, 16)):
        inputs = tiny.inputs(prompts=["a", "b"], height=height, width=width, max_sequence_length=4)
        run = tiny.shape(inputs, 1)
        conditions = tiny.encode(inputs, run)
        assert conditions.resolution.tolist() == [[height, width]]
        assert conditions.aspect_ratio.item() == pytest.approx(height / width)
        given = tiny.model_inputs(conditions, run.branches)["added_cond_kwargs"]
        assert given["resolution"].shape == (4, 2) and given["aspect_ratio"].shape == (4, 1)
        seen.append(tiny.model.adaln_single.emb(torch.zeros(4), **given, batch_size=4, hidden_dtype=torch.float32))
    assert not torch.equal(seen[0], seen[1])


# ---------------------------------------------------------------- classes


def test_classes_by_name_and_number(tmp_path: Path) -> None:
    backbone = BACKBONES["dit"].sketch(ModelChoice(backbone="dit", weights=str(saved("dit", tmp_path))))
    assert isinstance(backbone, dit.DiT)
    backbone.device = CPU
    inputs = backbone.inputs(prompts=["tench", "Tinca Tinca ", "goldfish", "207", "999"])
    assert backbone.check(inputs) == []
    labels = backbone.conditions(inputs, backbone.shape(inputs, 1))
    assert [rows.tolist() for rows in labels.values()] == [[0, 0, 1, 207, 999], [1000] * 5]


def test_unknown_classes_are_explained(tmp_path: Path) -> None:
    backbone = BACKBONES["dit"].sketch(ModelChoice(backbone="dit", weights=str(saved("dit", tmp_path))))
    problems = backbone.check(backbone.inputs(prompts=["goldfich", "1000", "goldfish"]))
    assert problems == [
        ("prompts", "there is no class `goldfich`", "did you mean `goldfish`?"),
        ("prompts", "there is no class `1000`", "give a number in 0..999"),
    ]


def test_without_an_index_only_numbers_are_classes(tmp_path: Path) -> None:
    folder = saved("dit", tmp_path)
    (folder / "model_index.json").unlink()
    backbone = BACKBONES["dit"].sketch(ModelChoice(backbone="dit", weights=str(folder)))
    assert backbone.check(backbone.inputs(prompts=["3"])) == []
    assert backbone.check(backbone.inputs(prompts=["goldfish"])) == [
        ("prompts", "there is no class `goldfish`", "give a number in 0..999")
    ]


def test_index_without_labels_is_explained(tmp_path: Path) -> None:
    folder = saved("dit", tmp_path)
    (folder / "model_index.json").write_text("{}")
    backbone = BACKBONES["dit"].sketch(ModelChoice(backbone="dit", weights=str(folder)))
    with pytest.raises(MissingWeights, match="holds no `id2label`"):
        backbone.check(backbone.inputs(prompts=["goldfish"]))


def test_random_weights_take_any_words() -> None:
    tiny = BACKBONES["dit"].tiny()
    inputs = tiny.inputs(prompts=["a cat", "the dog", "12"])
    labels = tiny.conditions(inputs, tiny.shape(inputs, 1))
    rows = labels[tiny.branches[0]].tolist()
    assert rows[2] == 12 and rows[0] != rows[1]


def test_published_vae_is_that_of_stable_diffusion() -> None:
    from engine.backbones.common.pictures import PUBLISHED_VAE

    with torch.device("meta"):
        vae = AutoencoderKL.from_config(dict(PUBLISHED_VAE))
    assert sum(parameter.numel() for parameter in vae.parameters()) == 83_653_863
