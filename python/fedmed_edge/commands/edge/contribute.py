"""`fedmed-edge contribute`: what this site hands over, signed: to the server, or as a file."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmed_edge.commands.contents import summary
from fedmed_edge.commands.folders import (
    DEVICE,
    FILE,
    check_writable,
    folder_option,
    read_site,
    read_site_data,
    read_site_generation,
)
from fedmed_edge.commands.handing_over import (
    NOT_DELIVERED,
    check_connected,
    newest_generation,
    wait_for,
)
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.config import Policy
from fedmed_edge.signing import read_private_key

if TYPE_CHECKING:
    from fedmed_edge.hospital import Prepared


@click.command(cls=Verb)
@folder_option("Site")
@click.option(
    "--generation",
    type=FILE,
    help="Generation to contribute to (default: that of fedmed.toml, else the newest that came).",
)
@click.option(
    "--weights",
    type=FILE,
    help="Backbone file of `train`: its difference from the generation goes instead of sums.",
)
@click.option("--device", type=DEVICE)
@click.option("--dry-run", is_flag=True, help="List every tensor that would leave; write nothing.")
@click.option("--out", "target", type=FILE, help="Write a file, which goes to the server another way.")
@click.option("--no-wait", is_flag=True, help="Do not wait until the server has taken it.")
@click.pass_context
def command(
    ctx: click.Context,
    folder: Path,
    generation: Path | None,
    weights: Path | None,
    device: str | None,
    dry_run: bool,
    target: Path | None,
    no_wait: bool,
) -> None:
    """Extract statistics from this site's training images, within the policy of fedmed.toml, and sign them.

    They go into the outbox, from where `agent` hands them over; with --out, into a file. Exit code 7 where no
    agent runs and they wait.

    Example: fedmed-edge contribute -C hospital-a --generation lesion.generation --out a.contribution
    """
    if (target and (dry_run or no_wait)) or (dry_run and no_wait):
        raise click.UsageError("give one of --out FILE, --dry-run, --no-wait, or none of them")
    out: Output = ctx.obj
    from fedmed_edge.federation.outbox import Outbox
    from fedmed_edge.federation.releases import SEQUENCE_FILE
    from fedmed_edge.federation.sequence import prepare_allowed, signed_as_next
    from fedmed_edge.hospital import prepare_weights
    from fedmed_edge.statistics.contribution import write_contribution

    config = read_site(folder, generation=generation, device=device)
    if not config.generation.exists() and generation is None:
        config = read_site(folder, generation=newest_generation(folder), device=device)
    if target is None and not dry_run:
        check_connected(folder)
    for path in (target, folder / SEQUENCE_FILE) if target else ():
        check_writable(path)
    key = read_private_key(config.key)
    dataset = read_site_data(config)
    site_generation = read_site_generation(config)
    with out.progress("extracting", len(dataset.train)) as advance:
        if weights is not None:
            prepared = prepare_weights(dataset, site_generation, config, weights)
        else:
            prepared = prepare_allowed(folder, dataset, site_generation, config, progress=advance)
    if dry_run:
        _show(out, folder, prepared, config.policy)
        return
    with signed_as_next(folder, prepared, key, policy=config.policy) as signed:
        answer, lines = summary(signed)
        if target is not None:
            write_contribution(target, signed)
        else:
            parcel = Outbox(folder / "outbox").add(signed)
    if target is not None:
        out.answer(
            {"out": str(target), **answer}, [f"{target}: signed contribution {signed.id[:12]}", *lines]
        )
        return
    if not no_wait:
        parcel = wait_for(out, folder, parcel)
    taken = parcel.state == "taken"
    says = "the server took it" if taken else "in the outbox; `fedmed-edge agent` hands it over"
    out.answer({"state": parcel.state, **answer}, [f"contribution {signed.id[:12]}: {says}", *lines])
    ctx.exit(0 if taken or no_wait else NOT_DELIVERED)


def _show(out: Output, folder: Path, prepared: "Prepared", policy: Policy) -> None:
    """What would leave, and the rules that it keeps to; nothing is written."""
    from fedmed_edge.federation.policy import rules_told
    from fedmed_edge.federation.releases import Releases

    releases = Releases(folder)
    releases.refuse(prepared.leaving, policy)
    answer, lines = summary(prepared.contribution(releases.sequence + 1), every=True)
    rules = rules_told(policy)
    told = [f"policy: {name}: {rule}" for name, rule in rules.items()]
    drawn = "; what leaves gets other noise" if policy.epsilon is not None else ""
    lines = [f"dry run: nothing was written{drawn}", *lines, *told]
    out.answer({"dry_run": True, **answer, "policy": rules}, lines)
