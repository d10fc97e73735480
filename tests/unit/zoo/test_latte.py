"""The recipe of the embedded Latte trains what the adapter runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import LatteTransformer3DModel
from safetensors.torch import load_file
from torch import nn
from transformers import T5TokenizerFast

from engine.backbones.latte.adapter import Latte, LatteInputs
from engine.spec import ModelChoice
from engine.step import Branch
from engine.weights import EMBEDDED
from engine.zoo import emoji
from engine.zoo.diffusion import NoisyLatents
from engine.zoo.files import save_half
from engine.zoo.latte import CONFIG, FRAMES, TextToVideo
from engine.zoo.text import MAX_LENGTH, build_tokenizer, save_text_side

CAPTIONS = ["a red apple moving right", "an owl moving up"]


@pytest.fixture(scope="module")
def recipe() -> TextToVideo:
    """With random weights that half precision holds exactly."""
    torch.manual_seed(0)
    model = TextToVideo(build_tokenizer(CAPTIONS))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.06)
    return model.half().float().eval()


def loaded(recipe: TextToVideo, folder: Path) -> Latte:
    plain = LatteTransformer3DModel.from_config(CONFIG)
    plain.load_state_dict(recipe.denoiser.state_dict())
    save_half(plain, folder / "transformer")
    save_text_side(recipe.tokenizer, recipe.encoder, folder)
    parts = {part: str(folder / part) for part in ("transformer", "text_encoder", "tokenizer")}
    weights = {**parts, "vae": str(EMBEDDED / "shared" / "vae")}
    backbone = Latte.sketch(ModelChoice(backbone="latte", weights=weights))
    backbone.load(torch.device("cpu"))
    return backbone


def test_both_branches_are_what_was_trained(recipe: TextToVideo, tmp_path: Path) -> None:
    """Captions of two lengths, and the empty one cut to theirs."""
    backbone = loaded(recipe, tmp_path)
    noisy = NoisyLatents(torch.randn(2, 4, FRAMES, 16, 16), torch.Generator().manual_seed(0))
    noisy.timesteps = torch.tensor([499, 499])
    inputs = LatteInputs(prompts=CAPTIONS, max_sequence_length=MAX_LENGTH)
    run = backbone.shape(inputs, 1)
    branches = (Branch.COND, Branch.UNCOND)
    with torch.inference_mode():
        given = backbone.predict(noisy.noised, 0.5, backbone.encode(inputs, run), branches).chunk(2)
        for dropped, known in zip((False, True), given, strict=True):
            out = recipe(noisy, CAPTIONS, torch.full((2,), dropped), torch.arange(FRAMES)[None])
            torch.testing.assert_close(out[:, :4], known, atol=2e-4, rtol=1e-3)
    assert not torch.allclose(given[0], given[1], atol=1e-2)


def test_single_frames_know_their_place(recipe: TextToVideo) -> None:
    noisy = NoisyLatents(torch.randn(1, 4, 1, 16, 16), torch.Generator().manual_seed(0))
    kept = torch.zeros(1, dtype=torch.bool)
    with torch.inference_mode():
        first, again, last = (recipe(noisy, CAPTIONS[:1], kept, torch.tensor([[at]])) for at in (0, 0, FRAMES - 1))
    assert torch.equal(first, again) and not torch.allclose(first, last, atol=1e-2)


def test_clips_are_noised_alike_in_all_frames() -> None:
    clean = torch.randn(3, 4, FRAMES, 2, 2, generator=torch.Generator().manual_seed(1))
    noisy = NoisyLatents(clean, torch.Generator().manual_seed(0))
    kept = torch.cumprod(1 - noisy.betas, 0)[noisy.timesteps].float()
    for row in range(3):
        expected = kept[row].sqrt() * clean[row] + (1 - kept[row]).sqrt() * noisy.noise[row]
        torch.testing.assert_close(noisy.noised[row], expected)


def test_it_starts_from_pixart() -> None:
    torch.manual_seed(0)
    model = TextToVideo(build_tokenizer(CAPTIONS))
    pixart = load_file(EMBEDDED / "pixart" / "transformer" / "model.safetensors")
    own = model.denoiser.state_dict()
    for ours, theirs in (
        ("adaln_single.linear.weight", "adaln_single.linear.weight"),
        ("transformer_blocks.1.attn2.to_q.weight", "transformer_blocks.2.attn2.to_q.weight"),
        ("temporal_transformer_blocks.1.ff.net.2.weight", "transformer_blocks.3.ff.net.2.weight"),
    ):
        assert torch.equal(own[ours], pixart[theirs].float())
    words = load_file(EMBEDDED / "pixart" / "text_encoder" / "model.safetensors")["shared.weight"].float()
    known = T5TokenizerFast.from_pretrained(EMBEDDED / "pixart" / "tokenizer").get_vocab()
    vocabulary = model.tokenizer.get_vocab()
    assert torch.equal(model.encoder.shared.weight[vocabulary["▁apple"]], words[known["▁apple"]])
    assert "▁moving" not in known and model.encoder.shared.weight[vocabulary["▁moving"]].std() > 0.1 * words.std()


def test_temporal_attention_starts_as_nothing() -> None:
    """One frame's prediction does not depend on the others'."""
    torch.manual_seed(0)
    model = TextToVideo(build_tokenizer(CAPTIONS)).eval()
    noisy = NoisyLatents(torch.randn(1, 4, 3, 16, 16), torch.Generator().manual_seed(0))
    kept, frames = torch.zeros(1, dtype=torch.bool), torch.tensor([[0, 1, 2]])
    with torch.inference_mode():
        before = model(noisy, CAPTIONS[:1], kept, frames)
        noisy.noised[:, :, 2] = 0.0
        after = model(noisy, CAPTIONS[:1], kept, frames)
    torch.testing.assert_close(after[:, :, :2], before[:, :, :2])
    assert not torch.allclose(after[:, :, 2], before[:, :, 2], atol=1e-2)


def test_captions_say_object_and_direction() -> None:
    assert [emoji.parse(caption) for caption in CAPTIONS] == [
        (emoji.names().index("red apple"), emoji.DIRECTIONS.index("right")),
        (emoji.names().index("owl"), emoji.DIRECTIONS.index("up")),
    ]
