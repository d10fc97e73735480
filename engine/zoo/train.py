"""Command line of the recipes: `python -m engine.zoo.train opensora`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, help="Train the small models that ship with the project; every recipe resumes.")
WEIGHTS = Path(__file__).parent / "weights"

Work = Annotated[Path, typer.Option(help="Where checkpoints and loss curves are kept; a second call resumes here.")]
Out = Annotated[Path, typer.Option(help="Where the finished weights go, in the layout of their hub repository.")]


@app.command()
def opensora(
    work: Work = Path("runs/zoo/opensora"),
    out: Out = WEIGHTS / "opensora",
    seed: int = 0,
    spatial_steps: int = 2500,
    temporal_steps: int = 1500,
    denoiser_steps: int = 7000,
) -> None:
    """Train the embedded Open-Sora (about two hours on 2 CPU cores)."""
    from engine.zoo.opensora import Recipe, train

    recipe = Recipe(seed, spatial_steps, temporal_steps, denoiser_steps)
    train(work, out, recipe)


@app.command()
def classifier(
    work: Work = Path("runs/zoo/classifier"), out: Out = WEIGHTS / "classifier", seed: int = 0, steps: int = 4000
) -> None:
    """Train the classifier that judges generated pictures (about five minutes on 2 CPU cores)."""
    from engine.zoo.train_classifier import train_classifier

    train_classifier(work, out, seed=seed, steps=steps)


@app.command()
def picture_vae(
    work: Work = Path("runs/zoo/picture_vae"), out: Out = WEIGHTS / "shared" / "vae", seed: int = 0, steps: int = 2500
) -> None:
    """Train the VAE that the image models share (about ten minutes on 2 CPU cores)."""
    from engine.zoo.picture_vae import train_picture_vae

    train_picture_vae(work, out, seed=seed, steps=steps)


@app.command()
def dit(work: Work = Path("runs/zoo/dit"), out: Out = WEIGHTS / "dit", seed: int = 0, steps: int = 10_000) -> None:
    """Train the embedded DiT on the shared VAE's latents (about forty minutes on a CPU core)."""
    from engine.zoo.dit import train_dit

    train_dit(work, out, seed=seed, steps=steps)


@app.command()
def pixart(
    work: Work = Path("runs/zoo/pixart"), out: Out = WEIGHTS / "pixart", seed: int = 0, steps: int = 6_500
) -> None:
    """Train the embedded PixArt on the shared VAE's latents (about forty minutes on a CPU core)."""
    from engine.zoo.pixart import train_pixart

    train_pixart(work, out, seed=seed, steps=steps)


@app.command()
def sd(work: Work = Path("runs/zoo/sd"), out: Out = WEIGHTS / "sd", seed: int = 0, steps: int = 5_000) -> None:
    """Train the embedded Stable Diffusion on the shared VAE's latents (about twenty minutes on 2 CPU cores)."""
    from engine.zoo.sd import train_sd

    train_sd(work, out, seed=seed, steps=steps)


@app.command()
def ddpm(work: Work = Path("runs/zoo/ddpm"), out: Out = WEIGHTS / "ddpm", seed: int = 0, steps: int = 2_500) -> None:
    """Train the embedded DDPM on 32x32 pixels (about ten minutes on 2 CPU cores)."""
    from engine.zoo.ddpm import train_ddpm

    train_ddpm(work, out, seed=seed, steps=steps)


@app.command()
def latte(
    work: Work = Path("runs/zoo/latte"),
    out: Out = WEIGHTS / "latte",
    seed: int = 0,
    steps: int = 2600,
    still_steps: int = 1000,
) -> None:
    """Train the embedded Latte from the embedded PixArt (about twenty minutes on a CPU core)."""
    from engine.zoo.latte import Recipe, train_latte

    train_latte(work, out, Recipe(seed, steps, still_steps))


@app.command()
def card(work: Work = Path("runs/zoo/opensora"), out: Out = WEIGHTS / "opensora") -> None:
    """Generate and judge 64 prompts with the trained Open-Sora; write its card, sample sheet and loss curves."""
    from engine.zoo.card import write_card

    write_card(work, out)


@app.command()
def latte_card(work: Work = Path("runs/zoo/latte"), out: Out = WEIGHTS / "latte") -> None:
    """Generate and judge 64 prompts with the trained Latte; write its card, sample sheet and loss curve."""
    from engine.zoo.latte_card import write_latte_card

    write_latte_card(work, out)


@app.command()
def picture_card(name: str, work: Path | None = None, out: Path | None = None) -> None:
    """Generate and judge 64 pictures with a trained picture model; write card, sample sheet and loss curve."""
    from engine.zoo.picture_card import write_picture_card

    write_picture_card(name, work or Path("runs/zoo") / name, out or WEIGHTS / name)


if __name__ == "__main__":
    app()
