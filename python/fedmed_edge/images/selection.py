"""Selection: which series of a study a recipe is about, rule by rule, and why the others are not."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fedmed_edge.images.image import sides
from fedmed_edge.images.series import Series, is_localizer
from fedmed_edge.recipe import Recipe
from fedmed_edge.words import counted

ORIGINAL = ("ORIGINAL", "PRIMARY")


@dataclass(frozen=True)
class Rule:
    """One rule, and what a series has.

    Attributes:
        name: Of the recipe's key, or `place`, `colour`, `localizer`.
        holds: Whether the series keeps it.
        found, expected: In words.
    """

    name: str
    holds: bool
    found: str
    expected: str

    def __str__(self) -> str:
        """As messages write it."""
        return f"`{self.name}` has {self.found}, expected {self.expected}"


@dataclass(frozen=True)
class Verdict:
    """Whether a series is taken.

    Attributes:
        rules: Every rule that the recipe sets.
        geometry: How its slices lie, in words; empty for images without a stack.
        sound: Whether the slices are a regular stack, or need not be one.
        taken: Whether it is answered.
        reason: Why it is not taken, or what is wrong with one that is.
    """

    series: Series
    rules: tuple[Rule, ...]
    geometry: str
    sound: bool
    taken: bool
    reason: str = ""

    @property
    def matches(self) -> bool:
        """Whether every rule holds."""
        return all(rule.holds for rule in self.rules)


def judge(study: Sequence[Series], recipe: Recipe, *, every: bool = False) -> list[Verdict]:
    """Hold the series of one study against a recipe.

    Of volumes that match, the best alone is taken: a regular stack before another, then the most slices,
    the thinnest, an ORIGINAL PRIMARY one, the lowest series number. Of 2-D images all that match are.

    Args:
        every: Take all volumes that match.
    """
    verdicts = [_judged(series, recipe) for series in study]
    if recipe.dimensions == 2 or every:
        return verdicts
    matching = sorted((verdict for verdict in verdicts if verdict.matches), key=_rank)
    if not matching:
        return verdicts
    first = matching[0]
    return [
        verdict if verdict is first or not verdict.matches else _behind(verdict, first)
        for verdict in verdicts
    ]


def rules_of(series: Series, recipe: Recipe) -> tuple[Rule, ...]:
    """Every rule that a recipe sets, held against a series."""
    wanted, rules = recipe.series, []
    if recipe.modality:
        expected = " or ".join(recipe.modality)
        # What is not stated is no other modality: the answer gets a warning.
        rules.append(
            Rule("modality", series.modality in ("", *recipe.modality), series.modality or "none", expected)
        )
    volume = recipe.dimensions == 3
    if volume or not is_localizer([value for value in wanted.image_type if not value.startswith("!")]):
        kind = "a localizer" if series.is_localizer else "an image"
        rules.append(Rule("localizer", not series.is_localizer, kind, "an image"))
    if volume:
        rules += _volume_rules(series)
    if wanted.orientation:
        holds = series.orientation in wanted.orientation
        rules.append(
            Rule("orientation", holds, series.orientation or "none", " or ".join(wanted.orientation))
        )
    for value in wanted.image_type:
        holds = (value.removeprefix("!") in series.image_type) != value.startswith("!")
        found = "\\".join(series.image_type) or "none"
        rules.append(Rule("image_type", holds, found, value.replace("!", "no ", 1)))
    if wanted.description:
        holds = re.search(wanted.description, series.description[:64], re.IGNORECASE) is not None
        rules.append(
            Rule("description", holds, "a match" if holds else "no match", f"/{wanted.description}/")
        )
    return (*rules, *_range_rules(series, recipe))


def _volume_rules(series: Series) -> list[Rule]:
    found = "a stack of slices" if series.is_volume else "images without a common place in the patient"
    if not series.is_volume and len(series.frames) == 1 and series.frames[0].position is not None:
        found = "1 slice"
    place = Rule("place", series.is_volume, found, "a stack of slices")
    return [
        place,
        Rule("colour", not series.colour, "colour" if series.colour else "grey", "grey"),
    ]


def _range_rules(series: Series, recipe: Recipe) -> list[Rule]:
    distance = series.stack.distance_mm if series.stack else None
    values: dict[str, tuple[float | None, tuple[float, float] | None, str]] = {
        "slices": (len(series.frames), recipe.series.slices, ""),
        "distance_mm": (distance, recipe.series.distance_mm, " mm"),
        "thickness_mm": (series.thickness_mm, recipe.series.thickness_mm, " mm"),
    }
    rules = []
    for name, (value, ends, unit) in values.items():
        if ends:
            holds = value is not None and ends[0] - 1e-3 <= value <= ends[1] + 1e-3
            found = "none" if value is None else f"{value:.4g}{unit}"
            rules.append(Rule(name, holds, found, f"{ends[0]:g} to {ends[1]:g}{unit}"))
    return rules


def geometry_of(series: Series) -> tuple[str, bool]:
    """How the slices of a series lie, in words, and whether they are a regular stack.

    Example: `24 axial slices of 512x512, 5.000 mm apart`.
    """
    count = len(series.frames)
    size = f"of {sides((series.rows, series.columns))}"
    if series.stack is None:
        return f"{counted(count, 'frame' if series.is_cine else 'image')} {size}", True
    told = f"{count} {series.orientation} slices {size}, {series.stack.distance_mm:.3f} mm apart"
    if series.stack.tilted:
        told += f", tilted by {series.stack.tilt_degrees:.1f} degrees"
    if not series.stack.faults:
        return f"{told}, regular", True
    return f"{told}; {'; '.join(fault.text for fault in series.stack.faults)}", False


def _judged(series: Series, recipe: Recipe) -> Verdict:
    rules = rules_of(series, recipe)
    geometry, sound = geometry_of(series)
    sound = sound or recipe.dimensions == 2
    broken = [rule for rule in rules if not rule.holds]
    reason = "; ".join(str(rule) for rule in broken)
    if not broken and not sound and series.stack:
        reason = series.stack.faults[0].text
    return Verdict(series, rules, geometry, sound, not broken, reason)


def _rank(verdict: Verdict) -> tuple[object, ...]:
    series = verdict.series
    return (
        not verdict.sound,
        -len(series.frames),
        series.thickness_mm or (series.stack.distance_mm if series.stack else 0),
        series.image_type[:2] != ORIGINAL,
        series.number if series.number is not None else 1 << 31,
        series.series_uid,
    )


def _behind(verdict: Verdict, first: Verdict) -> Verdict:
    def told(one: Verdict) -> str:
        series = one.series
        thick = f" of {series.thickness_mm:g} mm" if series.thickness_mm else ""
        number = "" if series.number is None else f" (series {series.number})"
        return f"{counted(len(series.frames), 'slice')}{thick}{number}"

    reason = f"another series of the study comes first: it has {told(first)}, this one {told(verdict)}"
    if not verdict.sound:
        reason = f"another series of the study comes first; in this one {verdict.reason}"
    return Verdict(verdict.series, verdict.rules, verdict.geometry, verdict.sound, False, reason)
