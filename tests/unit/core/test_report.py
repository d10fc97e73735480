"""What a run leaves behind: whole or not at all."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import pytest
import torch

from engine.errors import Unavailable
from engine.measure import similarity
from engine.media import enlarged, labelled, tiled, write_picture, write_video
from engine.report import output_folder


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    with output_folder(tmp_path / "run") as scratch:
        (scratch / "report.json").write_text("{}")
        assert not (tmp_path / "run").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_after_an_error_or_an_interrupt(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), output_folder(tmp_path / "run") as scratch:
        (scratch / "report.json").write_text("{}")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_run_is_replaced_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    where = tmp_path / "run"
    with output_folder(where) as scratch:
        (scratch / "report.json").write_text("old")
    with pytest.raises(RuntimeError), output_folder(where) as scratch:
        raise RuntimeError
    assert (where / "report.json").read_text() == "old"
    with output_folder(where) as scratch:
        (scratch / "report.json").write_text("new")
    assert (where / "report.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_other_files_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(Unavailable, match="holds other files"), output_folder(tmp_path):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_videos_are_written_and_read_back(tmp_path: Path) -> None:
    video = torch.zeros(3, 5, 15, 21)
    video[0, :, :, :10] = 1.0
    mp4, gif = write_video(video, tmp_path / "clip", fps=10)
    frames = iio.imread(mp4, plugin="pyav")
    assert frames.shape == (5, 16, 22, 3), "odd sizes are padded to even ones"
    assert frames[0, 8, 2, 0] > 200 and frames[0, 8, 20, 0] < 50
    assert iio.imread(gif).shape[0] in (1, 5), "a GIF may merge equal frames"
    (png,) = write_picture(video[:, :1], tmp_path / "still")
    assert iio.imread(png).shape == (16, 22, 3)


def test_videos_are_tiled_labelled_and_enlarged() -> None:
    videos = torch.rand(2, 3, 4, 64, 64)
    wide = tiled(videos)
    assert wide.shape == (3, 4, 64, 128)
    assert torch.equal(wide[..., 64:], videos[1])
    big = enlarged(wide)
    assert big.shape == (3, 4, 256, 512)
    assert torch.equal(big[..., ::4, ::4], wide)
    both = labelled([("one", wide), ("two", wide)])
    assert both.shape[-2] > 128 and torch.equal(both[..., -64:, :], wide)


def test_similarity() -> None:
    video = torch.rand(1, 3, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    assert similarity(video, video) == {"psnr": None, "ssim": 1.0}
    noisy = similarity((video + 0.1).clamp(0, 1), video)
    assert noisy["psnr"] is not None and 19.9 < noisy["psnr"] < 21.5
    assert noisy["ssim"] is not None and 0.5 < noisy["ssim"] < 1.0
