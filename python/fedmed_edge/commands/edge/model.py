"""`fedmed-edge model`: the models of this site: brought, verified, made active, taken back."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedmed_edge.commands.folders import FILE, Number, folder_option, read_site, read_site_data
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.inference.model_folder import ModelFolder
from fedmed_edge.words import counted

if TYPE_CHECKING:
    from fedmed_edge.inference.model_folder import ModelEntry


@click.group()
def command() -> None:
    """Bring models, see which one answers, have another answer, go back.

    Example: fedmed-edge model activate -C hospital-a
    """


@command.command(cls=Verb)
@folder_option("Site")
@click.argument("file", type=FILE)
@click.pass_obj
def add(out: Output, folder: Path, file: Path) -> None:
    """Verify the exported model FILE and its variants beside it, and keep them; it then waits for `activate`.

    Example: fedmed-edge model add -C hospital-a lesion.onnx
    """
    from fedmed_edge.inference.models import add_model

    config = read_site(folder)
    entry = add_model(folder, file, trust=config.server_key, site=config.site)
    out.answer(_facts(entry), _line(entry))


@command.command("list", cls=Verb)
@folder_option("Site")
@click.pass_obj
def list_(out: Output, folder: Path) -> None:
    """List the models of this site: active, the one before, those that wait, those withdrawn.

    Example: fedmed-edge model list -C hospital-a
    """
    read_site(folder)  # a folder that is no site's has no models either, but that is not what to tell
    entries = ModelFolder(folder).entries()
    none = "no model is here yet; `fedmed-edge model add FILE` brings one"
    out.answer({"models": [_facts(entry) for entry in entries]}, [_line(entry) for entry in entries] or none)


@command.command(cls=Verb)
@folder_option("Site")
@click.argument("name", default="")
@click.pass_obj
def verify(out: Output, folder: Path, name: str) -> None:
    """Check signature, content and sample of the model NAME, or of the active one, on this site's device.

    Example: fedmed-edge model verify -C hospital-a
    """
    from fedmed_edge.inference.models import verify_variants

    site, models = read_site(folder), ModelFolder(folder)
    entry = models.find(name) if name else models.active()
    checks = verify_variants(entry, trust=site.server_key, device=site.device)
    lines = [
        f"{check.precision:<5} on {check.device:<8} {check.found}"
        + (f": {check.task}" if entry.others else "")
        for check in checks
    ]
    out.answer({**_facts(entry), "checks": [asdict(check) for check in checks]}, [_line(entry), *lines])


@command.command(cls=Verb)
@folder_option("Site")
@click.argument("name", default="")
@click.option("--margin", type=Number(0, 1), help="How far the site's score may fall; default 0.02.")
@click.option("--force", is_flag=True, help="Take it however low it scores.")
@click.pass_obj
def activate(out: Output, folder: Path, name: str, margin: float | None, force: bool) -> None:
    """Have the model NAME answer, or the newest that waits, unless it does worse on this site's test images.

    Example: fedmed-edge model activate -C hospital-a
    """
    from fedmed_edge.inference.models import MARGIN
    from fedmed_edge.inference.models import activate as activate_model

    site, (active, _) = read_site(folder), ModelFolder(folder).roles()
    test = read_site_data(site).test if site.data.exists() and site.recipe.exists() else None
    done = activate_model(
        folder,
        name,
        trust=site.server_key,
        check_set=test,
        margin=MARGIN if margin is None else margin,
        force=force,
        device=site.device,
    )
    scores = {"score": done.score, "score_before": done.score_before, "images": done.images}
    others = {"forced": done.forced, "dropped": list(done.dropped)}
    told = "not scored: no labelled test images" if done.score is None else f"score {done.score:.3f}"
    told = "answers already" if active == done.entry.name else told
    told += "" if done.score_before is None else f", before {done.score_before:.3f}"
    told += f"; no longer answered: {', '.join(done.dropped)}" if done.dropped else ""
    out.answer(_facts(done.entry) | scores | others, f"{_line(done.entry)}  {told}")


@command.command(cls=Verb)
@folder_option("Site")
@click.pass_obj
def rollback(out: Output, folder: Path) -> None:
    """Have the model answer that did before; the one that is active waits again.

    Example: fedmed-edge model rollback -C hospital-a
    """
    from fedmed_edge.inference.models import rollback as go_back

    entry = go_back(folder, trust=read_site(folder).server_key)
    out.answer(_facts(entry), _line(entry))


def _facts(entry: "ModelEntry") -> dict[str, Any]:
    return {**asdict(entry), "path": str(entry.path)}


def _line(entry: "ModelEntry") -> str:
    tasks, precisions = ", ".join(entry.tasks), " ".join(entry.precisions)
    made = f"{tasks}, {counted(entry.sites, 'site')}, model {entry.model[:12]}, {precisions}"
    return f"{entry.name}  {entry.state:<9} {made}"
