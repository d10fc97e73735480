"""The picture set: names, captions, motion and reproducibility of rendered clips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.zoo import emoji

EXPECTED_SIGN = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
WHITE = torch.ones(1, 3)


def centroid(frame: Tensor) -> Tensor:
    """Centre (x, y) in frame edges of what differs from a white background; frame [3, S, S]."""
    weight = (1 - frame).sum(dim=0)
    axis = (torch.arange(weight.shape[0]) + 0.5) / weight.shape[0]
    return torch.stack([(weight.sum(dim=0) * axis).sum(), (weight.sum(dim=1) * axis).sum()]) / weight.sum()


def displacement(thing: int, way: int, frames: int, size: int = 64) -> Tensor:
    video = emoji.render(torch.tensor([thing]), torch.tensor([way]), WHITE, frames, size=size)[0]
    return centroid(video[:, -1]) - centroid(video[:, 0])


def test_two_hundred_distinct_pictures() -> None:
    assert len(emoji.names()) == len(set(emoji.names())) == 200
    assert emoji.sprites().shape == (200, 4, 64, 64)
    assert emoji.sprites().min() >= 0 and emoji.sprites().max() <= 1
    assert len(torch.unique(emoji.sprites().flatten(1), dim=0)) == 200


def test_folder_holds_the_listed_pictures_and_their_licence() -> None:
    entries = json.loads((emoji.FOLDER / "pictures.json").read_text(encoding="utf-8"))
    assert {entry["file"] for entry in entries} == {path.name for path in emoji.FOLDER.glob("*.png")}
    assert all(entry["file"] == entry["name"].replace(" ", "_") + ".png" for entry in entries)
    assert "Apache License" in (emoji.FOLDER / "LICENSE").read_text(encoding="utf-8")
    assert "16.0.0" in (emoji.FOLDER / "SOURCE.md").read_text(encoding="utf-8")


def test_rebuild_restores_every_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, original = tmp_path / "package", emoji.FOLDER
    pictures = package / "img" / "google" / "64"
    pictures.mkdir(parents=True)
    entries = json.loads((original / "pictures.json").read_text(encoding="utf-8"))
    for entry in entries:
        (pictures / f"{entry['code']}.png").write_bytes((original / entry["file"]).read_bytes())
    monkeypatch.setattr(emoji, "FOLDER", tmp_path)
    (tmp_path / "pictures.json").write_bytes((original / "pictures.json").read_bytes())
    emoji.rebuild(package)
    assert all((tmp_path / entry["file"]).read_bytes() == (original / entry["file"]).read_bytes() for entry in entries)


def test_captions_take_the_right_article() -> None:
    assert emoji.caption("red apple", "right") == "a red apple moving right"
    assert emoji.caption("owl", "up") == "an owl moving up"
    assert emoji.caption("red apple") == "a red apple"
    assert emoji.caption("unicorn") == "a unicorn"


def test_captions_round_trip_through_parse() -> None:
    for thing, name in enumerate(emoji.names()):
        assert emoji.parse(emoji.caption(name)) == (thing, None)
        for way, direction in enumerate(emoji.DIRECTIONS):
            assert emoji.parse(emoji.caption(name, direction)) == (thing, way)


def test_parse_tolerates_case_and_other_words() -> None:
    apple, egg = emoji.names().index("red apple"), emoji.names().index("fried egg")
    assert emoji.parse("A photo of one RED APPLE, slowly moving Left.") == (apple, 0)
    assert emoji.parse("a fried egg") == (egg, None)
    assert emoji.parse("an abstract idea") == (None, None)


@pytest.mark.parametrize("direction", emoji.DIRECTIONS)
def test_centroid_moves_as_named(direction: str) -> None:
    way = emoji.DIRECTIONS.index(direction)
    expected = emoji.TRAVEL * torch.tensor(EXPECTED_SIGN[direction])
    for thing in (0, 50, 150):
        torch.testing.assert_close(displacement(thing, way, 17), expected.float(), atol=0.01, rtol=0)


def test_displacement_depends_on_neither_frames_nor_size() -> None:
    reference = displacement(3, 1, 2)
    for frames, size in ((5, 64), (17, 64), (33, 64), (17, 128)):
        torch.testing.assert_close(displacement(3, 1, frames, size), reference, atol=0.005, rtol=0)


def test_still_clip_does_not_move() -> None:
    video = emoji.render(torch.tensor([7]), torch.tensor([-1]), WHITE, 5)
    assert torch.equal(video, video[:, :, :1].expand_as(video))


def test_sprite_stays_inside_the_frame_over_its_background() -> None:
    colour = torch.tensor([0.25, 0.5, 0.75])
    for way in range(4):
        video = emoji.render(torch.arange(200), torch.full((200,), way), colour.expand(200, 3), 3)
        torch.testing.assert_close(video[:, :, :, 0, 0], (2 * colour - 1)[None, :, None].expand(200, 3, 3))
        shown = (video - (2 * colour - 1)[:, None, None, None]).sum(dim=(1, 3, 4))  # the same whole sprite throughout
        torch.testing.assert_close(shown[:, [0, 2]], shown[:, [1, 1]], rtol=0, atol=2.0)


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_sample_has_the_promised_shapes_and_range(frames: int) -> None:
    video, captions, objects, directions = emoji.sample(6, frames, torch.Generator().manual_seed(0))
    assert video.shape == (6, 3, frames, 64, 64) and video.dtype == torch.float32
    assert video.min() >= -1 and video.max() <= 1
    assert [emoji.parse(text) for text in captions] == list(zip(objects.tolist(), directions.tolist(), strict=True))


def test_sample_is_deterministic_with_a_generator() -> None:
    first = emoji.sample(4, 5, torch.Generator().manual_seed(3))
    again = emoji.sample(4, 5, torch.Generator().manual_seed(3))
    other = emoji.sample(4, 5, torch.Generator().manual_seed(4))
    assert torch.equal(first[0], again[0]) and first[1] == again[1]
    assert not torch.equal(first[0], other[0])
