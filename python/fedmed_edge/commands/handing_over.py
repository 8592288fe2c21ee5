"""A contribution's way out of this site: into the outbox, from where the agent takes it."""

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fedmed_edge.commands.folders import check_writable_folder
from fedmed_edge.commands.verbs import Output
from fedmed_edge.errors import InputError, TrustError, Undelivered
from fedmed_edge.heartbeat import running

if TYPE_CHECKING:
    from fedmed_edge.federation.outbox import Parcel
    from fedmed_edge.statistics.contribution import Contribution

LOOK_S = 0.5
NOT_DELIVERED = Undelivered.exit_code


def newest_generation(folder: Path) -> Path | None:
    """The newest generation that came over the network, or None."""
    from fedmed_edge.federation.inbox import Inbox

    inbox = Inbox(folder / "inbox")
    found = inbox.newest("generation")
    return None if found is None else inbox.path(found.digest)


def check_connected(folder: Path) -> None:
    """Refuse a site that cannot hand over by itself, before minutes of work go into it.

    Raises:
        InputError: No kit is installed, or the folder is not writable.
    """
    from fedmed_edge.federation.engine.site_kit import server_address

    try:
        server_address(folder)
    except InputError as error:
        raise InputError(
            str(error), hint="--out FILE writes a file to send another way; or: " + (error.hint or "")
        ) from None
    check_writable_folder(folder)


def put_into_outbox(folder: Path, signed: "Contribution") -> "Parcel":
    """Write a signed contribution into the outbox.

    Raises:
        InputError: It would pass 1 GiB, or the disk is full.
    """
    from fedmed_edge.federation.outbox import Outbox
    from fedmed_edge.federation.policy import let_out
    from fedmed_edge.statistics.contribution import write_contribution

    header = signed.header
    made = folder / f"{secrets.token_hex(8)}.contribution"
    try:
        write_contribution(made, signed)
        return Outbox(folder / "outbox").add(
            made.read_bytes(),
            id=signed.id,
            sequence=header.sequence,
            task=header.task,
            rule=let_out(header.parts, header.min_cohort),
        )
    finally:
        made.unlink(missing_ok=True)


def wait_for(out: Output, folder: Path, parcel: "Parcel") -> "Parcel":
    """Wait until the server has taken or refused a parcel; it stays in the outbox where that is cut off.

    Returns at once where no agent runs here.

    Raises:
        TrustError: The server refused it.
    """
    from fedmed_edge.federation.outbox import Outbox
    from fedmed_edge.federation.wire import PART_BYTES

    outbox, total = Outbox(folder / "outbox"), -(-parcel.bytes // PART_BYTES)
    told = 0
    with out.progress("handing over", total) as advance:
        while parcel.state == "waiting" and "agent" in running(folder):
            sent = min(total, _parts_sent(folder, parcel.digest))
            for _ in range(sent - told):
                advance(parcel.why)
            told = max(told, sent)
            time.sleep(LOOK_S)
            parcel = next(one for one in outbox.all() if one.digest == parcel.digest)
    if parcel.state == "refused":
        raise TrustError(f"server: refused contribution {parcel.id[:12]}: {parcel.why}")
    return parcel


def _parts_sent(folder: Path, digest: str) -> int:
    from fedmed_edge.federation.egress import read_egress

    return sum(entry.op == "put" and entry.subject == digest for entry in read_egress(folder))
