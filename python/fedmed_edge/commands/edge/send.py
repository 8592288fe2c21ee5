"""`fedmed-edge send`: results that did not reach their destination, once more."""

from pathlib import Path

import click

from fedmed_edge.commands.folders import FILE, folder_option, read_site
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.errors import Undelivered


@click.command(cls=Verb)
@click.argument("files", nargs=-1, type=FILE)
@folder_option("Site")
@click.pass_obj
def command(out: Output, files: tuple[Path, ...], folder: Path) -> None:
    """Send DICOM FILES to the destinations of [listen]; without FILES, what waits in the spool of `listen`.

    Exit code 7 where something did not arrive: what was in the spool stays there, and a running `listen` goes
    on trying.

    Example: fedmed-edge send -C hospital-a results/lesion/seg.dcm
    """
    from fedmed_edge.listener.delivery import send_files, send_spool
    from fedmed_edge.listener.destinations import silence_libraries

    silence_libraries()
    settings = read_site(folder).listen
    if files:
        send_files(files, settings)
        sent, left = len(files) * len(settings.destination), 0
    else:
        sent, left = send_spool(settings)
    out.answer({"sent": sent, "waiting": left}, f"sent {sent}, waiting {left}")
    if left:
        raise Undelivered(f"{left} not delivered", hint="`listen` goes on trying while it runs")
