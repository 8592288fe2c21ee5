"""`fedmed-edge listen`: the DICOM node beside the scanner."""

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from fedmed_edge.commands.folders import DEVICE, FILE, folder_option, read_site
from fedmed_edge.commands.verbs import Output, Verb, ends_on_signal
from fedmed_edge.heartbeat import INTERVAL_S, Heartbeat
from fedmed_edge.listening import LabelKey

if TYPE_CHECKING:
    from fedmed_edge.listener.node import Node


@click.command(cls=Verb)
@folder_option("Site")
@click.option("--model", type=FILE, envvar="FEDMED_MODEL", help="Model file (default: that of [listen]).")
@click.option("--trust", type=FILE, help="The server's public key (default: server_key of fedmed.toml).")
@click.option("--device", type=DEVICE)
@click.option("--port", type=click.IntRange(0, 65535), help="TCP port (default: that of [listen]).")
@click.option("--report", is_flag=True, help="Tell what was answered so far, by day and label, and end.")
@click.option("--labels", type=FILE, help="With --report: table of radiologists' labels to compare with.")
@click.option(
    "--by",
    type=click.Choice(get_args(LabelKey)),
    default="AccessionNumber",
    show_default=True,
    help="Column of --labels that names the study.",
)
@click.pass_obj
def command(
    out: Output,
    folder: Path,
    model: Path | None,
    trust: Path | None,
    device: str | None,
    port: int | None,
    report: bool,
    labels: Path | None,
    by: LabelKey,
) -> None:
    """Receive studies by DICOM, answer them, and send the results once `send = true` stands in [listen].

    Until then results lie in the folder `listen` alone, and --report compares them. Ends with Ctrl-C or
    SIGTERM; what is under way is taken up again at the next start.

    Example: fedmed-edge listen -C hospital-a --model lesion.onnx
    """
    if labels and not report:
        raise click.UsageError("--labels goes with --report")
    flags = {"server_key": trust, "device": device, "listen.port": port, "listen.model": model}
    config = read_site(folder, **flags)
    if report:
        from fedmed_edge.listener.comparison import compare_folder

        out.answer(*compare_folder(config.listen.folder, labels, by))
        return
    from fedmed_edge.listener.node import Node

    node = Node(config.listen, folder, trust=config.server_key, device=config.device)
    _run(out, node, folder)


def _run(out: Output, node: "Node", folder: Path) -> None:
    ended = ends_on_signal()
    with Heartbeat(folder, "listen") as beat:
        said = node.start()
        goes = ", ".join(said["destination"]) if said["send"] else "the disk alone (shadow mode)"
        where = f"{said['aet']} at {said['address']} port {said['port']}"
        out.answer(said, f"{where}: listens; {said['task']} on {said['device']}; results go to {goes}")
        while not ended.wait(INTERVAL_S):
            beat.tell(**node.flags())
        node.stop()
