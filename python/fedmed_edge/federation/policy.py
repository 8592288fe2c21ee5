"""What a site does of that which the server asks, as its `fedmed.toml` says."""

from collections.abc import Sequence
from datetime import datetime, time

from fedmed_edge.config import PARTS, Policy, SiteConfig, SiteFederation
from fedmed_edge.federation.messages import Ask
from fedmed_edge.words import counted

__all__ = ["let_out", "objection", "rules_told", "within_hours"]


def objection(ask: Ask, config: SiteConfig, own_recipe: str) -> str | None:
    """Why the site does not do what is asked, or None; the words cross the wall.

    Args:
        own_recipe: Digest of the site's recipe.

    Example:
        >>> ask = Ask(id="0" * 32, kind="train", recipe="a" * 64, generation="b" * 64, deadline=0)
        >>> objection(ask, SiteConfig(site="alpha"), "a" * 64)
        'policy: `may_train` is false'
    """
    rules = config.federation
    if not getattr(rules, f"may_{ask.kind}"):
        return f"policy: `may_{ask.kind}` is false"
    if config.policy.epsilon is not None and ask.kind == "validate":
        return "policy: nothing leaves without noise"
    if not _listed(ask.generation, rules.generations):
        return "policy: the generation is not in `generations`"
    if rules.recipes and not _listed(ask.recipe, rules.recipes):
        return "policy: the recipe is not in `recipes`"
    if ask.recipe != own_recipe:
        return "policy: the recipe is not the site's"
    if ask.kind == "train" and ask.epochs > rules.max_epochs:
        return f"policy: {counted(ask.epochs, 'epoch')}, expected at most {rules.max_epochs:g}"
    if ask.kind == "train" and "weights" not in config.policy.parts:
        return "policy: `parts` has no weights"
    return None


def _listed(digest: str, allowed: Sequence[str]) -> bool:
    return not allowed or any(digest.startswith(one) for one in allowed)


def within_hours(rules: SiteFederation, now: datetime) -> bool:
    """Whether files may travel and work may begin at this time of the site's day.

    Example:
        >>> rules = SiteFederation(hours="22:00-06:00")
        >>> [within_hours(rules, datetime(2026, 1, 1, hour)) for hour in (5, 6, 23)]
        [True, False, True]
    """
    if rules.hours is None:
        return True
    begin, end = (time.fromisoformat(text) for text in rules.hours.split("-"))
    clock = now.time()
    return begin <= clock < end if begin <= end else clock >= begin or clock < end


def rules_told(policy: Policy) -> dict[str, str]:
    """What a site's policy lets out, in words, by what it is about.

    Example:
        >>> rules_told(Policy(parts=("classes",)))["parts"]
        'classes; withheld: unlabelled, shifts, images, channels, style, calibration, weights'
    """
    noisy = policy.epsilon is not None
    parts = [part for part in policy.parts if part in ("classes", "weights") or not noisy]
    withheld = [part for part in PARTS if part not in parts]
    least = counted(policy.least_update, "patient")
    return {
        "parts": f"{', '.join(parts) or 'none'}; withheld: {', '.join(withheld) or 'none'}",
        "min_cohort": f"{counted(policy.min_cohort, 'patient')} in every class and fold",
        "width": {
            "warn": "Grams wider than a third of their patients leave with a warning",
            "refuse": "Grams wider than a third of their patients do not leave",
            "off": "Grams of any width leave",
        }["off" if noisy else policy.width_rule],
        "noise": f"ε {policy.epsilon:g} and δ {policy.delta:g} a contribution or training, "
        f"ε {policy.budget:g} in all"
        + (f"; trainings of {counted(policy.epochs, 'epoch')}" if policy.epochs else "")
        if noisy
        else "none",
        "updates": f"{counted(policy.days_between, 'day')} apart"
        + ("" if noisy else f", a class by at least {least}, or not at all"),
    }


def let_out(parts: Sequence[str], min_cohort: int) -> str:
    """The rule, in words, that let a contribution out.

    Example:
        >>> let_out(("classes", "style"), 10)
        'policy.parts: classes, style; min_cohort 10'
    """
    return f"policy.parts: {', '.join(parts)}; min_cohort {min_cohort}"
