"""What the node has received, what is to be done with it, and how far that is; survives a kill at any point.

A file is on the disk before its row, and a row is there before anybody is told. The other order of a crash, a
file without a row, is mended when the node starts (`Incoming.recover`).

    series     fresh → (settled) → a job
    job        queued → running → done | skipped | failed; done → sent, once all its deliveries are
    delivery   pending → sent | refused (its class is not taken there) | expired
"""

from pathlib import Path

from fedmed_edge.errors import InputError
from fedmed_edge.listener.journal_deliveries import Deliveries, Delivery
from fedmed_edge.listener.journal_jobs import Answer, Job, Jobs
from fedmed_edge.listener.journal_received import Instance, Received

__all__ = ["JOURNAL", "Answer", "Delivery", "Instance", "Job", "Journal", "open_journal"]

JOURNAL = "journal.sqlite"


class Journal(Received, Jobs, Deliveries):
    """The three parts in one file: series and instances, jobs and answers, deliveries."""


def open_journal(folder: Path) -> Journal:
    """The journal of a node's folder that is there already.

    Raises:
        InputError: There is none.
    """
    if not (folder / JOURNAL).is_file():
        raise InputError(f"{folder}: has no {JOURNAL}", hint="`fedmed-edge listen` makes it when it runs")
    return Journal(folder / JOURNAL)
