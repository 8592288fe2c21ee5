"""`fedmed-edge inspect`: what is in a file of ours; tensor by tensor where it has any."""

from pathlib import Path

import click

from fedmed_edge.commands.contents import tell
from fedmed_edge.commands.folders import FILE
from fedmed_edge.commands.verbs import Output, Verb


@click.command(cls=Verb)
@click.argument("file", type=FILE)
@click.pass_obj
def command(out: Output, file: Path) -> None:
    """Show what FILE holds: a contribution, generation, backbone, model, recipe, settings, key or signature.

    It is only looked at: no signature is checked, and of a private key nothing but its fingerprint is shown.

    Example: fedmed-edge inspect a.contribution
    """
    out.answer(*tell(file))
