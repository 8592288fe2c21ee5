"""`fedmed-server`: what the federation's admin runs."""

import click

from fedmed_edge.commands.verbs import LazyGroup, run, version_option

_VERBS = {
    "init": "Make a server folder with its settings, key and store.",
    "start": "Let the hospitals connect; runs until it is told to stop.",
    "site": "Enrol hospitals and list them.",
    "generation": "Publish the backbone and lift that all sites share.",
    "train": "Rounds of training over the hospitals that are connected.",
    "stage": "One stage of the universal encoder, from stored local models.",
    "import": "Take a contribution that came by file.",
    "status": "Who has contributed what, and which models exist.",
    "store": "Encrypt the store's files, or make them plain again.",
    "health": "Whether what runs in a server folder is well.",
    "log": "The ledger: who did what, and whether anybody changed it.",
    "rebuild": "The global model, from the stored contributions alone.",
    "refine": "One site's model, from the stored contributions alone.",
    "withdraw": "Delete a site's contributions, and rebuild without them.",
    "evaluate": "What the sums tell: held-out errors, worth, distances.",
    "plan": "What a federation of some size will ask of its server.",
    "export": "One signed file that `fedmed-edge infer` runs.",
    "publish": "Offer a generation or a model to the hospitals.",
    "rollback": "Take back what was published.",
}


@click.group(cls=LazyGroup, package=__name__, verbs=_VERBS)
@version_option
def server() -> None:
    """Keep every hospital's contribution and rebuild the global model from them at any time."""


def main() -> None:
    """Entry point of `fedmed-server`."""
    run(server, "fedmed-server")
