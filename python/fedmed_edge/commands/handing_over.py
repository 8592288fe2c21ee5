"""A contribution's way out of this site: into the outbox, from where the agent takes it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from fedmed_edge.commands.folders import check_writable_folder
from fedmed_edge.commands.verbs import Output
from fedmed_edge.errors import InputError, TrustError, Undelivered
from fedmed_edge.heartbeat import running

if TYPE_CHECKING:
    from fedmed_edge.federation.outbox import Parcel

LOOK_S = 0.5
PATIENCE_S = 60.0
NOT_DELIVERED = Undelivered.exit_code


def newest_generation(folder: Path) -> Path:
    """The newest generation that came over the network.

    Raises:
        InputError: None came.
    """
    from fedmed_edge.federation.inbox import Inbox

    inbox = Inbox(folder / "inbox")
    found = inbox.newest("generation")
    if found is None:
        raise InputError(
            f"{folder}: has no generation to contribute to",
            hint="name one with --generation; or `agent` fetches what the server publishes",
        )
    return inbox.path(found.digest)


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


def wait_for(out: Output, folder: Path, parcel: "Parcel") -> "Parcel":
    """Wait until the server has taken or refused a parcel; it stays in the outbox where that is cut off.

    Returns where no agent runs here, or where it has not been connected for a minute.

    Raises:
        TrustError: The server refused it.
    """
    from fedmed_edge.federation.egress import Followed
    from fedmed_edge.federation.outbox import Outbox
    from fedmed_edge.federation.parts import count_parts

    outbox, left, total, sent = Outbox(folder / "outbox"), Followed(folder), count_parts(parcel.bytes), 0
    heard = time.monotonic()
    with out.progress("handing over", total) as advance:
        while parcel.state == "waiting" and time.monotonic() - heard < PATIENCE_S:
            agent = running(folder).get("agent")
            if agent is None:
                break
            heard = time.monotonic() if agent.get("connected") else heard
            for entry in left.new():
                if entry.op == "put" and entry.subject == parcel.digest and sent < total:
                    sent += 1  # some may be sent again
                    advance(parcel.why)
            time.sleep(LOOK_S)
            parcel = next(one for one in outbox.all() if one.digest == parcel.digest)
    if parcel.state == "refused":
        raise TrustError(f"server: refused contribution {parcel.id[:12]}: {parcel.why}")
    return parcel
