"""`fedmed-edge bench-method`: this method beside its peers, on any folder of tasks."""

from pathlib import Path

import click

from fedmed_edge.commands.experiments import policy_option, require_packages
from fedmed_edge.commands.folders import FOLDER, TORCH_DEVICE, check_writable_folder
from fedmed_edge.commands.verbs import Output, Verb, complain
from fedmed_edge.errors import InputError

_NEEDED = ("torch", "monai", "onnx", "onnxruntime", "scipy", "matplotlib")


@click.command("bench-method", cls=Verb)
@click.argument("data", type=FOLDER)
@click.option("--methods", default="all", show_default=True, help="Names, with commas between them.")
@click.option("--settings", default="join,unseen", show_default=True, help="Questions asked, by name.")
@click.option("--seeds", type=click.IntRange(1, 100), default=1, show_default=True)
@click.option("--out", "target", type=FOLDER, default=Path("bench-method"), show_default=True)
@click.option(
    "--site", "sites", multiple=True, help="Hospital in question; repeatable. Default: each in turn."
)
@click.option(
    "--budget",
    type=click.Choice(["tiny", "small", "full"]),
    default="full",
    show_default=True,
    help="What every method gets: `full` tunes it and trains it to its plateau.",
)
@policy_option("--policy", "default")
@click.option("--device", type=TORCH_DEVICE, default="auto", show_default=True)
@click.pass_context
def command(
    ctx: click.Context,
    data: Path,
    methods: str,
    settings: str,
    seeds: int,
    target: Path,
    sites: tuple[str, ...],
    budget: str,
    policy: str,
    device: str,
) -> None:
    """Compare methods on DATA, a task folder or a folder of them. Running it again goes on.

    With --json one line for every setting, task, site, method and seed. A method that fails is told as such.

    Example: fedmed-edge bench-method tasks --methods rebuilt,refined,fedavg --seeds 5 --out results
    """
    require_packages("bench-method", *_NEEDED, extras="cpu,train,server,study")
    target.mkdir(parents=True, exist_ok=True)
    check_writable_folder(target)
    from fedmed_edge.study.bench_method import Comparison, bench_methods
    from fedmed_edge.study.plan import METHOD_BUDGETS, POLICIES

    out: Output = ctx.obj
    try:
        comparison = Comparison.named(
            methods.split(","),
            settings.split(","),
            POLICIES[policy],
            METHOD_BUDGETS[budget],
            seeds,
            sites,
            device,
        )
    except InputError as error:
        raise click.UsageError(str(error)) from None
    with out.progress("bench-method") as advance:
        answer = (lambda row: out.answer(row, "")) if out.as_json else (lambda row: None)
        result = bench_methods(data, comparison, target, watch=advance, answer=answer)
    if not out.as_json:
        out.answer({}, result.lines)
    if result.failed:
        complain(f"bench-method: {result.failed} of {len(result.rows)} rows failed", result.reason)
    ctx.exit(3 if result.failed else 0)
