"""Stacks: how the slices of a volume lie in the patient, and what is wrong with them.

Slices are ordered by position along their normal, never by name or number. What is no regular stack is
diagnosed: which slice, and how far off.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError

# A slice may lie this far from its regular place, as a share of the slice distance (and at least 0.01 mm).
IRREGULAR = 0.05
# Slices closer than this lie at one position.
SAME_PLACE_MM = 1e-3
# Rounded positions make a straight stack lean by less than this; gantries tilt by up to 30 degrees.
STRAIGHT_DEGREES, TILT_DEGREES = 1.0, 45.0

_LENIENT = "find the missing or stray slice; `--lenient` resamples to a straight stack, and says so"

Float64 = npt.NDArray[np.float64]
Code = Literal["turned", "duplicate", "missing", "irregular", "sheared"]


@dataclass(frozen=True)
class Fault:
    """Why slices are no regular stack; slices are counted from 1, along the normal.

    Attributes:
        code: Stable word. All but `turned` can be resampled away.
        text: Which slice, and how large the fault is.
    """

    code: Code
    text: str
    hint: str | None = None


@dataclass(frozen=True, eq=False)
class Stack:
    """How slices lie.

    Attributes:
        order: Indices of the slices along their normal.
        heights: (n,) mm along the normal of the ordered slices, the first at 0.
        step: (3,) mm from one slice of the regular stack to the next, in the frame of the positions.
        drift: (n, 3) mm by which each ordered slice lies beside the line through the first and the last.
        tilt_degrees: Angle between `step` and the normal.
        faults: Empty where the slices are a regular stack.
    """

    order: tuple[int, ...]
    heights: Float64 = field(repr=False)
    step: Float64
    drift: Float64 = field(repr=False)
    tilt_degrees: float
    faults: tuple[Fault, ...] = ()

    @property
    def distance_mm(self) -> float:
        """Distance of neighbouring slices along the normal."""
        return float(np.linalg.norm(self.step) * np.cos(np.radians(self.tilt_degrees)))

    @property
    def tilted(self) -> bool:
        """Whether the stack leans enough to be told of."""
        return self.tilt_degrees > STRAIGHT_DEGREES

    def _can_be_filled(self) -> bool:
        """Whether most slices of a regular stack are there: a wider gap is no gap, but another scan."""
        if not self.step.any():
            return False
        return bool(self.heights[-1] / self.distance_mm + 1 <= 1.5 * len(self.heights) + 0.5)

    def require_regular(self, where: str, *, lenient: bool = False) -> None:
        """Refuse what is no regular stack, or with `lenient` what cannot be made one.

        Raises:
            InputError: With the first fault.
        """
        for fault in self.faults:
            if not lenient or fault.code == "turned" or not self._can_be_filled():
                raise InputError(f"{where}: {fault.text}", hint=fault.hint or _LENIENT)


def diagnose(positions: Float64, orientations: Float64) -> Stack:
    """Order slices along their normal and tell whether they are a regular stack.

    A regular stack that leans along its columns only is a tilted gantry and no fault: its affine holds the
    shear, and resampling to the patient's axes straightens it.

    Args:
        positions: (n, 3) mm, ImagePositionPatient of every slice, n ≥ 2.
        orientations: (n, 6), ImageOrientationPatient of every slice.

    Source: DICOM PS3.3 C.7.6.2.1.1 (position and orientation of the image plane).

    Example:
        >>> heights = np.array([0.0, 1, 2, 4])
        >>> stack = diagnose(heights[:, None] * [0, 0, 1], np.tile([1.0, 0, 0, 0, 1, 0], (4, 1)))
        >>> stack.faults[0].text
        'slices 3 and 4 along the normal are 2.000 mm apart, expected 1.000 mm; 1 missing'
    """
    row, column = orientations[0, :3], orientations[0, 3:]
    normal = np.cross(row, column)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    ordered, heights = positions[order], along[order] - along[order[0]]
    faults = [*_turned(orientations), *_gaps(np.diff(heights))]
    step = _step(ordered, heights)
    share = heights / heights[-1] if heights[-1] > 0 else np.zeros(len(heights))
    drift = ordered - ordered[0] - share[:, None] * (ordered[-1] - ordered[0])
    if not faults:
        faults = _off_place(ordered, step, normal)
    length = float(np.linalg.norm(step))
    tilt = _angle(step / length, normal) if length > 0 else 0.0
    aside = abs(float(step @ row)) > np.sin(np.radians(STRAIGHT_DEGREES)) * length
    if tilt > TILT_DEGREES or (tilt > STRAIGHT_DEGREES and aside):
        faults.append(
            Fault(
                "sheared",
                f"slices are stacked {tilt:.1f} degrees off their normal, expected a straight stack "
                f"or a gantry tilted by at most {TILT_DEGREES:.0f}",
            )
        )
    return Stack(tuple(int(index) for index in order), heights, step, drift, tilt, tuple(faults))


def _step(ordered: Float64, heights: Float64) -> Float64:
    """From one slice to the next: the mean of a regular stack, else along the same line the usual gap."""
    gaps = np.diff(heights)
    real = gaps[gaps >= SAME_PLACE_MM]
    whole: Float64 = ordered[-1] - ordered[0]
    if not len(real):
        return np.zeros(3)
    usual = float(np.median(real))
    regular = len(real) == len(gaps) and gaps.max() <= 1.5 * usual
    return whole / len(gaps) if regular else whole * (usual / heights[-1])


def _turned(orientations: Float64) -> list[Fault]:
    turned = np.abs(orientations - orientations[0]).max(axis=1)
    if turned.max() <= 1e-3:
        return []
    number = int(np.argmax(turned > 1e-3))
    own, first = orientations[number], orientations[0]
    angle = max(_angle(own[:3], first[:3]), _angle(own[3:], first[3:]))
    return [
        Fault(
            "turned",
            f"slice {number + 1} of {len(orientations)} (by file name) is turned by {angle:.1f} "
            "degrees against the first, expected one orientation",
            "keep localizers and other series in folders of their own",
        )
    ]


def _gaps(gaps: Float64) -> list[Fault]:
    faults = []
    if gaps.min() < SAME_PLACE_MM:
        first = int(np.argmin(gaps)) + 1
        faults.append(
            Fault(
                "duplicate",
                f"slices {first} and {first + 1} along the normal lie at one position",
                "a series with several echoes, phases or time points must be split into one folder each",
            )
        )
    real = gaps[gaps >= SAME_PLACE_MM]
    usual = float(np.median(real)) if len(real) else 0.0
    if len(real) and gaps.max() > 1.5 * usual:
        first = int(np.argmax(gaps)) + 1
        faults.append(
            Fault(
                "missing",
                f"slices {first} and {first + 1} along the normal are {gaps.max():.3f} mm apart, "
                f"expected {usual:.3f} mm; {round(gaps.max() / usual) - 1 or 1} missing",
            )
        )
    return faults


def _off_place(ordered: Float64, step: Float64, normal: Float64) -> list[Fault]:
    regular = ordered[0] + np.arange(len(ordered))[:, None] * step
    off = np.linalg.norm(ordered - regular, axis=1)
    most = max(0.01, IRREGULAR * float(step @ normal))
    if off.max() <= most:
        return []
    return [
        Fault(
            "irregular",
            f"slice {int(np.argmax(off)) + 1} along the normal lies {off.max():.3f} mm off its "
            f"regular place, expected at most {most:.3f} mm",
        )
    ]


def _angle(first: Float64, second: Float64) -> float:
    return float(np.degrees(np.arccos(np.clip(first @ second, -1, 1))))
