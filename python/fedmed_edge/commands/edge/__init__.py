"""`fedmed-edge`: what a hospital runs."""

import click

from fedmed_edge.commands.verbs import LazyGroup, run, version_option

_VERBS = {
    "demo": "The whole path on this machine, with a report at the end.",
    "init": "Make a site folder with its settings and keys.",
    "doctor": "Check data, keys, runtime, device, disk and clock.",
    "health": "Whether what runs in a site folder is well.",
    "dataset": "Make a dataset folder from DICOM and a spreadsheet of labels.",
    "train": "Train the backbone on this site's images.",
    "extract": "Measure feature statistics without signing or sending.",
    "contribute": "Extract, sign and hand over a contribution.",
    "agent": "Stay connected to the server, within the site's policy.",
    "pull": "The newest model that the server published.",
    "log": "Every byte that left this site by its agent, and under which rule.",
    "budget": "Privacy spent, and what is left of it.",
    "inspect": "What is in a contribution, generation or model, tensor by tensor.",
    "model": "Models here: bring one, have it answer, go back.",
    "bench-method": "Methods beside each other on any folder of tasks.",
    "bench": "Precisions and devices of a model, measured here.",
    "infer": "Answer images with a model.",
    "listen": "Answer studies that arrive by DICOM, beside the scanner.",
    "send": "Send results that did not reach their destination.",
    "report": "Make the HTML report of a demo again.",
}


@click.group(cls=LazyGroup, package=__name__, verbs=_VERBS)
@version_option
def edge() -> None:
    """Train a medical-imaging model with other hospitals, and run it beside the scanner."""


def main() -> None:
    """Entry point of `fedmed-edge`."""
    run(edge, "fedmed-edge")
