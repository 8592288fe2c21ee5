"""`fedmed-edge budget`: privacy spent by what this site signed, and what is left."""

from dataclasses import asdict
from pathlib import Path

import click

from fedmed_edge.commands.folders import Number, folder_option, read_site
from fedmed_edge.commands.verbs import Output, Verb
from fedmed_edge.words import counted


@click.command(cls=Verb)
@folder_option("Site")
@click.option(
    "--settle",
    type=Number(0, 1000),
    metavar="EPSILON",
    help="What contributions spent that the server has and this folder does not know; 0 without noise.",
)
@click.option(
    "--restored",
    type=click.IntRange(1, 1 << 53),
    metavar="SEQUENCE",
    help="This folder is an older copy: number of this site's newest contribution at the server.",
)
@click.pass_obj
def command(out: Output, folder: Path, settle: float | None, restored: int | None) -> None:
    """Show what contributions and trainings with noise spent of the privacy budget in fedmed.toml.

    A contribution counts from when it is signed, whether it arrived or not; a training from its beginning,
    and handing over its weights spends no more. Those of all tasks and generations count together, as they
    may speak of the same patients.

    A folder that was restored from an older copy does not know what left after the copy. The server tells a
    connected site; elsewhere --restored says it. No sums leave then until --settle says what they spent.

    Example: fedmed-edge budget -C hospital-a
    """
    from fedmed_edge.federation.releases import Releases
    from fedmed_edge.federation.sequence import raise_sequence, settle_lost

    policy = read_site(folder).policy
    if restored is not None:
        raise_sequence(folder, restored + 1, by_hand=True)
    releases = Releases(folder) if settle is None else settle_lost(folder, settle, policy)
    stands = releases.spent(policy)
    trained = f" and {counted(stands.trainings, 'training')}" if stands.trainings else ""
    lines = [
        f"spent: ε {stands.epsilon:.3g} of {policy.budget:g} at δ {policy.delta:g}, "
        f"by {counted(stands.noisy, 'contribution')}{trained}"
    ]
    if stands.left is None:
        lines.append("policy: no noise (`epsilon` is not set), so no ε bounds what a contribution tells")
    else:
        lines.append(f"left: {stands.left} more of ε {policy.epsilon:g} each")
    if stands.exact:
        lines.append(
            f"{counted(stands.exact, 'contribution')} left without noise; no ε bounds what they tell"
        )
    if stands.lost:
        lines.append("contributions were signed that are not known here: no sums leave before --settle")
    out.answer({**asdict(stands), "delta": policy.delta, "budget": policy.budget}, lines)
