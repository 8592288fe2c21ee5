"""`fedmed-server status`: who has contributed what, and which models exist."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmed_edge.commands.ages import ages
from fedmed_edge.commands.folders import folder_option, read_server
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.words import counted

if TYPE_CHECKING:
    from fedmed_edge.store.store import Store


@click.command(cls=Verb)
@folder_option("Server")
@click.pass_obj
def command(out: Output, folder: Path) -> None:
    """Sites, generations, contributions and models in the store, and whether its files are sound.

    Example: fedmed-server status -C server
    """
    _, store = read_server(folder)
    faults, keys = store.verify(), list(store.key_ids().values())
    grown = list(ages(store))
    document = {
        "sites": [asdict(site) for site in store.sites()],
        "generations": store.generations(),
        "tasks": store.tasks(),
        "contributions": [asdict(entry) for entry in store.contribution_entries()],
        "models": [asdict(model) for model in store.models()],
        "held_back": {task: held for task in store.tasks() if (held := store.held_back.of(task))},
        "encryption": {
            "key": store.cipher.key.id if store.cipher.key else None,
            "files": len(keys),
            "plain": keys.count(None),
        },
        "ages": [asdict(age) | {"too_old": age.too_old} for age in grown],
        "faults": faults,
    }
    lines = [
        _at_rest(store, keys),
        *_sites(store),
        *_generations(store),
        *(age.line for age in grown),
        *_contributions(store),
        *_models(store),
        *_held_back(store),
    ]
    sound = "all sound: every row, file, digest and signature was checked"
    out.answer(document, [*lines, *([f"fault: {fault}" for fault in faults] or [sound])])


def _at_rest(store: "Store", keys: list[str | None]) -> str:
    if store.cipher.key is None:
        return "store: not encrypted"
    id = store.cipher.key.id
    others = len(keys) - keys.count(id)
    rest = (
        f"; {others} of its {counted(len(keys), 'file')} not yet: run `fedmed-server store encrypt`"
        if others
        else ""
    )
    return f"store: encrypted with key {id}{rest}"


def _sites(store: "Store") -> Iterator[str]:
    sites = store.sites()
    if not sites:
        yield "sites: none yet; `fedmed-server site add NAME --key FILE` enrols one"
    for site in sites:
        held = counted(site.contributions, "contribution") if site.contributions else "nothing contributed"
        yield f"site {site.name:<24} {held}{', revoked' if site.revoked else ''}"


def _generations(store: "Store") -> Iterator[str]:
    entries = store.generation_entries()
    if not entries:
        yield "generations: none yet; `fedmed-server generation publish --recipe FILE --out FILE` makes one"
    for number, entry in enumerate(entries):
        what = "draft" if entry.draft else f"rows of {entry.row_dim}"
        yield f"generation {entry.digest[:12]}  {entry.kind}, {what}{'' if number else ', newest'}"


def _contributions(store: "Store") -> Iterator[str]:
    """By site and task; `superseded`: by a newer one of the same site, recipe and generation."""
    entries = sorted(store.contribution_entries(), key=lambda one: (one.site, one.task, one.sequence))
    if not entries:
        yield "contributions: none yet; `fedmed-server import FILE` takes one"
    for entry in entries:
        yield (
            f"contribution {entry.id[:12]}  {entry.site:<16} {entry.task:<16} {entry.holds:<7} "
            f"sequence {entry.sequence:<4} generation {entry.generation[:12]}  {entry.bytes:>12,} bytes  "
            f"{'current' if entry.current else 'superseded'}"
        )


def _held_back(store: "Store") -> Iterator[str]:
    for task in store.tasks():
        for site, why in store.held_back.of(task).items():
            yield f"held back {site:<19} {task:<16} {why}"


def _models(store: "Store") -> Iterator[str]:
    models = store.models()
    if not models:
        yield "models: none yet; `fedmed-server rebuild` makes one from the contributions"
    for model in models:
        made_for = f"refined for {model.refined_for}" if model.refined_for else "global"
        yield (
            f"model {model.digest[:12]}  {model.task:<16} {made_for}  of {', '.join(model.sites)}"
            f"{'  WITHDRAWN' if model.withdrawn else ''}"
        )
