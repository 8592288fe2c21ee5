"""Procedural anatomy for the synthetic cohort: radiograph-like images and CT-like volumes, numpy alone.

Nothing here is a patient. Shapes, positions and texture are drawn from the generator that is passed in, so
the same seed gives the same picture. The classes of radiographs differ in shape and never in brightness: the
findings of one image add a total that does not depend on its class.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]
Labels = npt.NDArray[np.uint8]

FINDINGS = ("strand", "nodule", "cavity")
ORGANS = ("background", "organ", "lesion")

AIR, FAT, MUSCLE, BONE = -1000.0, -90.0, 30.0, 420.0


def blur(image: Array64, sigma: float | tuple[float, ...]) -> Array64:
    """Gaussian blur by the Fourier transform; edges wrap around.

    Args:
        image: Any shape.
        sigma: Standard deviation in samples, one number or one an axis.

    Example:
        >>> spot = np.zeros((8, 8)); spot[4, 4] = 1.0
        >>> bool(np.isclose(blur(spot, 1.0).sum(), 1.0))
        True
    """
    sigmas = (sigma,) * image.ndim if isinstance(sigma, float) else sigma
    spectrum = np.fft.fftn(image)
    for axis, width in enumerate(sigmas):
        response = np.exp(-2 * (np.pi * width * np.fft.fftfreq(image.shape[axis])) ** 2)
        spectrum *= response.reshape([-1 if a == axis else 1 for a in range(image.ndim)])
    return np.asarray(np.fft.ifftn(spectrum).real, np.float64)


def radiograph(label: int, side: int, rng: np.random.Generator) -> Array64:
    """Draw a chest-like radiograph, bone bright.

    Args:
        label: Position in `FINDINGS`.
        side: Rows and columns in pixels.

    Returns:
        (side, side) float64, about 0 to 1.
    """
    y, x = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side), indexing="ij")
    tilt = rng.normal(0, 0.04)
    x, y = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
    x, y = (
        x / rng.uniform(0.92, 1.08) + rng.normal(0, 0.03),
        y / rng.uniform(0.92, 1.08) + rng.normal(0, 0.03),
    )
    image = 0.5 * _inside((x / 0.95) ** 4 + (y / 1.25) ** 4 - 1, 0.08)
    lungs = [(s * rng.uniform(0.40, 0.46), rng.uniform(-0.12, 0.0), rng.uniform(0.27, 0.32)) for s in (-1, 1)]
    height = rng.uniform(0.62, 0.72)
    field = np.zeros_like(image)
    for centre_x, centre_y, width in lungs:
        field += _inside(((x - centre_x) / width) ** 2 + ((y - centre_y) / height) ** 2 - 1, 0.12)
    image -= rng.uniform(0.26, 0.32) * field
    image += 0.22 * _inside(((x - 0.10) / rng.uniform(0.24, 0.32)) ** 2 + ((y - 0.30) / 0.36) ** 2 - 1, 0.2)
    image += 0.16 * np.exp(-((x / 0.09) ** 2)) * (1 + 0.15 * np.sin(y * rng.uniform(22, 28)))
    image += _ribs(x, y, rng)
    image += 0.05 * field * _texture(side, 0.10, rng) + 0.025 * _texture(side, 0.35, rng)
    image += _vessels(x, y, lungs, rng) * field
    return image + _findings(label, x, y, lungs, height, rng)


def _inside(distance: Array64, edge: float) -> Array64:
    """1 inside (distance < 0), 0 outside, with a soft edge."""
    return np.asarray(1 / (1 + np.exp(np.clip(distance / edge * 4, -60, 60))), np.float64)


def _texture(side: int, scale: float, rng: np.random.Generator) -> Array64:
    noise = blur(rng.standard_normal((side, side)), scale * side / 4)
    return np.asarray(noise / noise.std(), np.float64)


def _ribs(x: Array64, y: Array64, rng: np.random.Generator) -> Array64:
    offset, gap, bend = rng.uniform(-0.95, -0.8), rng.uniform(0.24, 0.29), rng.uniform(0.25, 0.4)
    ribs = np.zeros_like(x)
    for number in range(7):
        line = offset + number * gap + bend * (np.abs(x) - 0.1) ** 2 + 0.12 * np.abs(x)
        ribs = np.maximum(ribs, np.exp(-(((y - line) / 0.035) ** 2)))
    return rng.uniform(0.03, 0.06) * ribs * (np.abs(x) > 0.1) * _inside(np.abs(x) - 0.82, 0.1)


def _segment(x: Array64, y: Array64, start: Array64, end: Array64, width: float) -> Array64:
    """A straight line of Gaussian profile from `start` to `end` (x, y)."""
    along = end - start
    t = np.clip(((x - start[0]) * along[0] + (y - start[1]) * along[1]) / (along @ along), 0, 1)
    distance = (x - start[0] - t * along[0]) ** 2 + (y - start[1] - t * along[1]) ** 2
    return np.asarray(np.exp(-distance / width**2), np.float64)


def _vessels(
    x: Array64, y: Array64, lungs: list[tuple[float, float, float]], rng: np.random.Generator
) -> Array64:
    tree = np.zeros_like(x)
    for centre_x, centre_y, _ in lungs:
        hilum = np.array([0.4 * centre_x, centre_y + 0.1])
        for angle in rng.uniform(-1.2, 1.2, 7):
            reach = rng.uniform(0.25, 0.55)
            end = hilum + reach * np.array([np.sign(centre_x) * np.cos(angle), np.sin(angle)])
            tree = np.maximum(tree, _segment(x, y, hilum, end, 0.02))
    return 0.04 * tree


def _findings(
    label: int,
    x: Array64,
    y: Array64,
    lungs: list[tuple[float, float, float]],
    height: float,
    rng: np.random.Generator,
) -> Array64:
    """Three to six findings of one kind in the lungs; all of them together add a fixed total."""
    marks = np.zeros_like(x)
    count = int(rng.integers(3, 7))
    total = rng.uniform(0.9, 1.2) * 2.6e-2 * x.size
    for number in range(count):
        centre_x, centre_y, width = lungs[number % 2]
        angle, reach = rng.uniform(0, 2 * np.pi), 0.72 * np.sqrt(rng.uniform())
        at = np.array([centre_x + reach * width * np.cos(angle), centre_y + reach * height * np.sin(angle)])
        mark = _mark(FINDINGS[label], x, y, at, rng)
        marks += mark * (total / count / max(float(mark.sum()), 1e-6))
    return marks


def _mark(shape: str, x: Array64, y: Array64, at: Array64, rng: np.random.Generator) -> Array64:
    radius = rng.uniform(0.10, 0.15)
    distance = np.hypot((x - at[0]) / rng.uniform(0.9, 1.1), (y - at[1]) / rng.uniform(0.9, 1.1))
    if shape == "nodule":
        return _inside(distance / radius - 1, 0.5)
    if shape == "cavity":
        return np.asarray(np.exp(-(((distance - 1.25 * radius) / (0.35 * radius)) ** 2)), np.float64)
    angle = rng.uniform(0, np.pi)
    half = rng.uniform(1.6, 2.6) * radius * np.array([np.cos(angle), np.sin(angle)])
    return _segment(x, y, at - half, at + half, 0.4 * radius)


def abdomen(
    points_mm: Array64, softness_mm: float, lesion_hu: float, organ_hu: float, rng: np.random.Generator
) -> tuple[Array64, Labels]:
    """Draw an abdomen-like volume: body, spine, an organ with lesions, and look-alikes outside the organ.

    Args:
        points_mm: (3, *shape) patient coordinates in mm, left, posterior and head positive, centre at 0.
        softness_mm: Width of every edge, of the order of a voxel.
        lesion_hu: Difference of the lesions to the organ, either sign.
        organ_hu: Mean value of the organ.

    Returns:
        Hounsfield units (*shape) float64 and labels (*shape) uint8, numbers of `ORGANS`.
    """
    left, back, _ = points_mm
    body = _ellipsoid(points_mm, (0, 0, 0), (rng.uniform(74, 82), rng.uniform(54, 60), 1e4))
    rim = _ellipsoid(points_mm, (0, 0, 0), (70 - rng.uniform(0, 4), 48 - rng.uniform(0, 4), 1e4))
    values = np.full(left.shape, AIR)
    _fill(values, body, FAT, softness_mm)
    _fill(values, rim, MUSCLE, softness_mm)
    _fill(values, np.hypot(left, back - 38) - 11, BONE, softness_mm)
    _fill(values, np.hypot(left - 13, back - 18) - 6, MUSCLE + 60, softness_mm)
    _look_alikes(values, points_mm, softness_mm, organ_hu, lesion_hu, rng)

    centre = np.array([rng.uniform(-34, -26), rng.uniform(-10, 0), rng.uniform(-10, 10)])
    axes = np.array([rng.uniform(26, 31), rng.uniform(23, 28), rng.uniform(32, 40)])
    organ = _ellipsoid(points_mm, centre, axes, rng.uniform(-0.4, 0.4))
    organ += (
        2.0 * np.sin(points_mm[0] / 9 + rng.uniform(0, 6)) * np.cos(points_mm[2] / 11 + rng.uniform(0, 6))
    )
    organ = np.maximum(organ, rim + 2)
    _fill(values, organ, organ_hu, softness_mm)
    labels = (organ < 0).astype(np.uint8)
    for _ in range(int(rng.integers(1, 4))):
        direction = rng.standard_normal(3)
        at = centre + direction / np.linalg.norm(direction) * axes * rng.uniform(0.1, 0.6)
        lesion = np.maximum(_ellipsoid(points_mm, at, rng.uniform(9, 14, 3)), organ + 1)
        _fill(values, lesion, organ_hu + lesion_hu * rng.uniform(0.85, 1.15), softness_mm)
        labels[lesion < 0] = 2
    return values, labels


def _look_alikes(
    values: Array64,
    points_mm: Array64,
    softness_mm: float,
    organ_hu: float,
    lesion_hu: float,
    rng: np.random.Generator,
) -> None:
    """A brighter organ on the other side, a cyst of the lesions' value, and a gas bubble."""
    at = (rng.uniform(34, 42), rng.uniform(-4, 8), rng.uniform(-15, 15))
    _fill(values, _ellipsoid(points_mm, at, rng.uniform(14, 18, 3)), organ_hu + 90, softness_mm)
    cyst = (rng.uniform(20, 30), rng.uniform(-28, -22), rng.uniform(-25, 25))
    _fill(values, _ellipsoid(points_mm, cyst, rng.uniform(7, 11, 3)), organ_hu + lesion_hu, softness_mm)
    gas = (rng.uniform(-2, 12), rng.uniform(-34, -26), rng.uniform(-30, 30))
    _fill(values, _ellipsoid(points_mm, gas, rng.uniform(5, 9, 3)), AIR + 100, softness_mm)


def _ellipsoid(
    points_mm: Array64,
    centre: tuple[float, ...] | Array64,
    axes: tuple[float, ...] | Array64,
    turn: float = 0.0,
) -> Array64:
    """Approximate signed distance in mm, negative inside; `turn` rotates it about the head axis."""
    offset = [p - c for p, c in zip(points_mm, centre, strict=True)]
    cos, sin = np.cos(turn), np.sin(turn)
    turned = (offset[0] * cos + offset[1] * sin, offset[1] * cos - offset[0] * sin, offset[2])
    radius = np.sqrt(sum((p / a) ** 2 for p, a in zip(turned, axes, strict=True)))
    return np.asarray((radius - 1) * min(axes), np.float64)


def _fill(values: Array64, distance: Array64, level: float, softness_mm: float) -> None:
    """Mix `level` into `values` where `distance` is negative, with a soft edge."""
    share = 1 / (1 + np.exp(np.clip(4 * distance / softness_mm, -60, 60)))
    values += share * (level - values)
