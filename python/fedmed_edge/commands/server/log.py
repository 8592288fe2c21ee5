"""`fedmed-server log`: the ledger, and whether anybody changed it."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from fedmed_edge.commands.folders import folder_option, read_server
from fedmed_edge.commands.verbs import Output, Verb

if TYPE_CHECKING:
    from fedmed_edge.store.ledger import LedgerEntry

_DIGEST: Final = re.compile("[0-9a-f]{64}")
_MOST_PAIRS: Final = 8


@click.command(cls=Verb)
@folder_option("Server")
@click.option("--verify", is_flag=True, help="Check every row against its hash and the row before.")
@click.option("--head", help="With --verify: hash of a head that was written down before.")
@click.option("--site", help="Rows about this site alone.")
@click.option("--last", type=click.IntRange(min=1), help="The last so many rows alone.")
@click.pass_obj
def command(
    out: Output, folder: Path, verify: bool, head: str | None, site: str | None, last: int | None
) -> None:
    """Who contributed what, when, under which policy, and what was made of it; oldest first.

    The head, number and hash of the last row, is worth writing down elsewhere: whoever can write to the
    store's index could write all of it anew, and would be found by it.

    Example: fedmed-server log -C server --verify
    """
    if head and not verify:
        raise click.UsageError("--head needs --verify")
    _, store = read_server(folder)
    end = store.verify_ledger(head) if verify else store.ledger_head()
    rows = [row for row in store.ledger() if site in (None, row.site)][-(last or 0) :]
    document = {"rows": [asdict(row) for row in rows], "head": asdict(end), "verified": verify}
    checked = "every row checked; " if verify else ""
    lines = [_line(row) for row in rows]
    out.answer(document, [*lines, f"{checked}head {end.number} {end.hash}"])


def _line(row: "LedgerEntry") -> str:
    about = f" {row.subject[:12]}" if row.subject else ""
    told = ", ".join(f"{name} {_short(value)}" for name, value in row.details.items() if value)
    return f"{row.number:>6} {row.time} {row.kind:<12} {row.site or '-':<16}{about}  {told}".rstrip()


def _short(value: Any) -> str:
    """A value as a person wants it: digests by their beginning, many things by their number."""
    if isinstance(value, dict) and len(value) <= _MOST_PAIRS:
        return " ".join(f"{name} {_short(one)}" for name, one in value.items())
    if isinstance(value, list | dict):
        return ", ".join(map(_short, value)) if len(value) < 4 else str(len(value))
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text[:12] if _DIGEST.fullmatch(text) else text
