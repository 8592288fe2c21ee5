"""`fedmed-edge train`: the backbone, trained on this site's images."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from fedmed_edge.commands.folders import (
    FILE,
    TORCH_DEVICE,
    Number,
    check_writable,
    folder_option,
    read_site,
    read_site_data,
    read_site_generation,
)
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.words import counted

ERRORS = "error: 1 − balanced accuracy, of masks 1 − Dice, on held-out images"


@click.command(cls=Verb)
@folder_option("Site")
@click.option("--generation", type=FILE, help="Generation to start from (default: that of fedmed.toml).")
@click.option("--from-scratch", is_flag=True, help="Start from random weights instead of a generation.")
@click.option("--epochs", type=Number(0.1, 1000), default=30.0, show_default=True)
@click.option("--shifts/--no-shifts", default=True, help="Whether shifts are generated.", show_default=True)
@click.option("--private", is_flag=True, help="Train with the noise that the policy asks for; spends budget.")
@click.option(
    "--seed", type=click.IntRange(0, (1 << 31) - 1), help="Repeat a training (default: drawn anew)."
)
@click.option("--device", type=TORCH_DEVICE)
@click.option("--out", "target", type=FILE, required=True, help="Backbone file to write.")
@click.pass_obj
def command(
    out: Output,
    folder: Path,
    generation: Path | None,
    from_scratch: bool,
    epochs: float,
    shifts: bool,
    private: bool,
    seed: int | None,
    device: str | None,
    target: Path,
) -> None:
    """Train on the images of this site's training split and write the backbone's weights.

    With shifts every batch is also seen as other scanners would show it, by the recipe's `[training]`. Where
    the policy has `epsilon`, weights leave only if they were trained with --private, one patient as the unit.

    Example: fedmed-edge train -C hospital-a --generation start.generation --out a.backbone
    """
    config = read_site(folder, generation=generation, device=device)
    check_writable(target)
    whole = read_site_data(config)
    dataset = whole.train
    start = None if from_scratch else read_site_generation(config)

    from fedmed_edge.federation.inbox import Inbox
    from fedmed_edge.federation.sequence import private_training
    from fedmed_edge.federation.styles import styles_here
    from fedmed_edge.local_training import train_backbone

    how = dataset.recipe.training if shifts else dataset.recipe.training.without_shifts()
    styles = styles_here(Inbox(folder / "inbox"), dataset.recipe, config.server_key)
    noise = private_training(folder, whole, start, config.policy, epochs) if private else None
    with _begins_anew(), out.progress("training", noise.privacy.steps if noise else None) as advance:
        trained = train_backbone(
            dataset,
            start,
            epochs=epochs,
            site=config.site,
            styles=styles,
            how=how,
            held_out=whole.test,
            private=noise,
            seed=seed,
            device=config.device,
            progress=advance,
        )
        trained.write(target)
    out.answer(
        {
            "out": str(target),
            "images": trained.images,
            "styles": len(styles) if how.amplitude else 0,
            "seconds": round(trained.seconds, 3),
            "loss": trained.loss,
            "errors": dict(trained.errors),
            "privacy": noise.privacy.model_dump() if noise else None,
        },
        f"{target}: trained on {counted(trained.images, 'image')} in {trained.seconds:.0f} s, "
        f"loss {trained.loss:.3f}"
        + "".join(f", {name.replace('_', ' ')} {error:.2f}" for name, error in trained.errors.items())
        + (f" ({ERRORS})" if trained.errors else ""),
    )


@contextmanager
def _begins_anew() -> Iterator[None]:
    """A training keeps nothing before its end."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing of the training is kept; the same command begins it anew") from None
