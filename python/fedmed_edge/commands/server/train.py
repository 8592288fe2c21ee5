"""`fedmed-server train`: rounds of training over the hospitals."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from fedmed_edge.commands.folders import Number, folder_option, read_server
from fedmed_edge.commands.server.rebuild import task_of, task_option
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.signing import read_private_key
from fedmed_edge.words import counted

if TYPE_CHECKING:
    from fedmed_edge.federation.rounds import Rounds, Rule, Training

RULES: Final = ["mean", "median", "trimmed_mean"]


@click.command(cls=Verb)
@folder_option("Server")
@task_option
@click.option("--generation", help="Digest (or its beginning) to start from; default the newest.")
@click.option("--rounds", type=click.IntRange(1, 10_000), default=5, show_default=True)
@click.option("--epochs", type=Number(0, 1000, min_open=True), default=1.0, show_default=True)
@click.option("--rule", type=click.Choice(RULES), default="mean", show_default=True)
@click.option("--trim", type=Number(0, 0.49), default=0.1, help="Of trimmed_mean (default: 0.1).")
@click.option("--site", "sites", multiple=True, help="Hospital that trains; repeatable (default: all).")
@click.option("--list", "listing", is_flag=True, help="Begin nothing: how far are they?")
@click.pass_obj
def command(
    out: Output,
    folder: Path,
    task: str | None,
    generation: str | None,
    sites: tuple[str, ...],
    listing: bool,
    rounds: int,
    epochs: float,
    rule: "Rule",
    trim: float,
) -> None:
    """Ask hospitals to train the backbone in rounds; `start` carries them on, hospitals come and go.

    A round ends when all have answered, or at the deadline of fedmed.toml once there is a quorum. The weights
    of the last round are a file for `generation publish --backbone`.

    Example: fedmed-server train -C server --task lesion --rounds 5
    """
    from fedmed_edge.federation.coordinator import FOLDER
    from fedmed_edge.federation.publishing import Publisher
    from fedmed_edge.federation.rounds import Rounds

    config, store = read_server(folder)
    key = read_private_key(config.key)
    known = Rounds(store, folder / FOLDER, key)
    if listing:
        trainings = known.all()
    else:
        recipe = store.recipe(task_of(store, task))
        asked = {"rounds": rounds, "epochs": epochs, "rule": rule, "trim": trim}
        publisher = Publisher(store, folder / FOLDER, key)
        trainings = [publisher.training(recipe, config.federation, generation or "", sites, asked)]
    rows = [{**one.model_dump(mode="json"), "file": _file(known, one)} for one in trainings]
    out.answer({"trainings": rows}, [_line(known, one) for one in trainings] or "no training was begun yet")


def _file(rounds: "Rounds", training: "Training") -> str | None:
    return str(rounds.backbone_file(training)) if training.ended else None


def _line(rounds: "Rounds", training: "Training") -> str:
    done = f"{len(training.ended)} of {counted(training.rounds, 'round')}"
    said = [f"training {training.id[:12]} of {training.task}: {done}, {training.state}"]
    return ", ".join([*said, *filter(None, (_file(rounds, training), training.why))])
