"""What the verbs that run experiments share: the policy of all sites, and the packages that it takes."""

import importlib.util
from collections.abc import Callable
from typing import Any, TypeVar

import click

from fedmed_edge.errors import InputError

__all__ = ["policy_option", "require_packages"]

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def policy_option(name: str, default: str) -> Callable[[Decorated], Decorated]:
    """A name of `study.plan.POLICIES`."""
    return click.option(
        name,
        type=click.Choice(["open", "default", "private"]),
        default=default,
        show_default=True,
        help="Site policy: `open` is for public data alone (min_cohort 1), `default` a hospital's (10), "
        "`private` adds noise (ε 8, rows of 33).",
    )


def require_packages(verb: str, *names: str, extras: str) -> None:
    """Say before any work is done what is not installed.

    Args:
        extras: Of the package, which bring all of them.

    Raises:
        InputError: One is missing.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"{verb}: {name} is not installed", hint=f'pip install "fedmed-edge[{extras}]"')
