"""`fedmed-edge log`: every byte that left this site."""

from dataclasses import asdict
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmed_edge.commands.folders import folder_option, read_site
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.words import counted

if TYPE_CHECKING:
    from fedmed_edge.federation.egress import Egress

_ABOUT = {"hello": "in touch", "get": "fetching", "report": "answer to a request"}


@click.command(cls=Verb)
@folder_option("Site")
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="Only what left on that day (UTC) or later.")
@click.pass_obj
def command(out: Output, folder: Path, since: datetime | None) -> None:
    """Show what left this site by its agent: when, how many bytes, about what, and which rule let it out.

    A line stands for requests one after the other about the same thing; --json lists every request. What was
    written to a file with `contribute --out` is not in it.

    Example: fedmed-edge log -C hospital-a --since 2026-01-01
    """
    from fedmed_edge.federation.egress import read_egress

    read_site(folder)
    begin = since.strftime("%Y-%m-%d") if since else ""
    rows = [row for row in read_egress(folder) if row.when >= begin]
    total = sum(row.bytes for row in rows)
    shown = [_line(list(one)) for _, one in groupby(rows, key=lambda row: (_about(row), row.rule))]
    out.answer(
        {"bytes": total, "requests": [asdict(row) for row in rows]},
        [
            *shown,
            f"{total:,} bytes in {counted(len(rows), 'request')}"
            if rows
            else "nothing left this site by its agent yet",
        ],
    )


def _about(row: "Egress") -> str:
    return _ABOUT.get(row.op) or f"contribution file {row.subject[:12]}"


def _line(rows: "list[Egress]") -> str:
    first, size = rows[0], sum(row.bytes for row in rows)
    return f"{first.when[:19]}Z  {size:>14,} bytes  {_about(first):<32} {first.rule}"
