"""One image, one signed model, one answer; torch-free and in memory."""

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedmed_edge.errors import InputError, TrustError
from fedmed_edge.images.image import Float32, Float64, Image, UInt8, read_image
from fedmed_edge.images.preprocess import prepare, restore
from fedmed_edge.images.windows import window_starts
from fedmed_edge.inference.usage import Stopwatch
from fedmed_edge.kinds import mistaken
from fedmed_edge.model.manifest import (
    METADATA_KEY,
    ONE_TASK,
    Manifest,
    Ports,
    parse_manifest,
    parse_manifests,
)
from fedmed_edge.onnx_file import graph_part, model_metadata
from fedmed_edge.recipe import Recipe
from fedmed_edge.runtime import Session, as_batch, open_session

log = logging.getLogger(__name__)

UNLIKE = "unlike: the image is unlike those that the model was made from, so its answer may be wrong"

# Slices so many times further apart than the model's voxels hold too little of what it looks for.
_COARSE = 3.0


@dataclass(frozen=True, eq=False)
class Model:
    """A model of one task whose signature was checked, loaded on a device; its file may hold others.

    Attributes:
        path: File it came from.
        file_sha256: SHA-256 of the file, in hexadecimal.
        manifest: What it says of itself.
        device_asked: The device that was asked for.
        ports: What its input and outputs are called in the graph.
    """

    path: Path
    file_sha256: str
    manifest: Manifest
    session: Session = field(repr=False)
    device_asked: str = "auto"
    ports: Ports = ONE_TASK

    @property
    def digest(self) -> str:
        """Digest of the model in it, as `fedmed-server rebuild` prints it."""
        return self.manifest.model

    @property
    def recipe(self) -> Recipe:
        """Preprocessing and classes."""
        return self.manifest.recipe

    @property
    def device(self) -> str:
        """The device that came up."""
        return self.session.device

    def run(self, window: Float32) -> tuple[Float32, float]:
        """Probabilities (C,) or (C, *size) and squared distance of a window (channels, *size).

        Raises:
            InputError: The window has another shape, or the model cannot be run.
        """
        outputs = self.session.run({self.ports.image: as_batch(window)})
        named = dict(zip(self.session.outputs, outputs, strict=True))
        return named[self.ports.probabilities][0], float(named[self.ports.distance].reshape(-1)[0])


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer for one image.

    Attributes:
        image: The image that was answered.
        probabilities: Class name → probability; of a segmentation, the mean over the image: the share of the
            image that the class is expected to have.
        label: Name of the most probable class (classification), else None.
        mask: Class numbers uint8 at the image's own size (segmentation), else None.
        distance: Squared Mahalanobis distance of the image's features to the sites' images.
        threshold: Distance above which an image is unlike theirs; None: the model cannot tell.
        known: `distance <= threshold`, None without a threshold.
        seconds: Wall time from reading to answer.
        stages: The same by stage: `read`, `prepare`, `network`, `blend`.
        warnings: What a reader of the answer should know, each beginning with a stable code.
    """

    image: Image = field(repr=False)
    probabilities: dict[str, float]
    label: str | None
    mask: UInt8 | None = field(repr=False)
    distance: float
    threshold: float | None
    seconds: float
    stages: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def known(self) -> bool | None:
        """Whether the image is like those that the model was made from."""
        return None if self.threshold is None else self.distance <= self.threshold


def load_model(
    path: Path | str, *, trust: Path | str | None, device: str = "auto", task: str | None = None
) -> Model:
    """Load a model file of one task, or one task of it, after checking its signature.

    Args:
        path: ONNX file, its signature `path.sig` beside it.
        trust: PEM file of the server's public key.
        device: `auto`, `cpu`, `cuda` or `tensorrt`.
        task: Which; needed where the file answers several.

    Raises:
        TrustError: No key to trust, no signature, one by another key, or a file changed since.
        InputError: A file is missing, or the content is no exported model; names what else it is; or it
            answers several tasks, of which none is named (`load_models` loads them all), or not that one.
        DeviceError: The asked device did not come up.

    Example:
        >>> load_model("lesion.onnx", trust=None)
        Traceback (most recent call last):
        ...
        fedmed_edge.errors.TrustError: lesion.onnx: no key to check its signature against
    """
    path = Path(path)
    content, text = _trusted(path, trust)
    if task is None:
        parse_manifest(text, str(path))
    models = _opened(path, content, text, device)
    found = [one for one in models if task in (None, one.manifest.task)]
    if not found:
        names = ", ".join(one.manifest.task for one in models)
        raise InputError(f"{path}: answers {names}, expected {task}")
    return found[0]


def load_models(path: Path | str, *, trust: Path | str | None, device: str = "auto") -> tuple[Model, ...]:
    """Load every task of a model file after checking its signature; as `load_model` otherwise."""
    path = Path(path)
    return _opened(path, *_trusted(path, trust), device)


def _trusted(path: Path, trust: Path | str | None) -> tuple[bytes, str]:
    """Content of a model file as it was signed, and the manifest in it."""
    if trust is None:
        raise TrustError(
            f"{path}: no key to check its signature against",
            hint="name the server's public key as `server_key` in fedmed.toml, or with --trust where a verb "
            "takes it",
        )
    if said := mistaken(path, "exported model"):
        raise InputError(f"{path}: {said}", hint="`fedmed-server export` writes one")
    # Loads a cryptography library: only where a signature is checked.
    from fedmed_edge.signing import read_public_key, verify_file

    content = verify_file(path, read_public_key(Path(trust)))
    text = model_metadata(content, str(path)).get(METADATA_KEY)
    if text is None:
        raise InputError(f"{path}: has no manifest, expected a model made by `fedmed-server export`")
    return content, text


def _opened(path: Path, content: bytes, text: str, device: str) -> tuple[Model, ...]:
    manifests, digest = parse_manifests(text, str(path)), hashlib.sha256(content).hexdigest()
    sessions: dict[tuple[str, ...], Session] = {}
    models = []
    for manifest, ports in manifests:
        outputs = _run_together(manifest, ports, manifests)
        if outputs not in sessions:
            part = content if len(manifests) == 1 else graph_part(content, outputs, str(path))
            sessions[outputs] = open_session(part, device=device, precision=manifest.precision)
        model = Model(path, digest, manifest, sessions[outputs], device, ports)
        _check_graph(model, outputs)
        log.info("%s: %s on %s", path.name, manifest.task, model.device)
        models.append(model)
    return tuple(models)


def _run_together(
    manifest: Manifest, ports: Ports, tasks: Sequence[tuple[Manifest, Ports]]
) -> tuple[str, ...]:
    """Outputs of the part of the graph that answers a task; a runtime computes all of them at each run.

    Heads of images cost next to nothing: those of one encoder are one part, which holds it once. A map of
    pixels costs as much as the encoder: each is a part of its own.
    """
    if manifest.recipe.kind == "segmentation":
        return ports[1:]
    beside = [own for one, own in tasks if (one.recipe.kind, own.image) == ("classification", ports.image)]
    return tuple(name for own in beside for name in own[1:])


def _check_graph(model: Model, outputs: Sequence[str]) -> None:
    recipe, session = model.recipe, model.session
    wanted = {model.ports.image: (1, recipe.channels, *recipe.size)}
    if session.inputs != wanted:
        raise InputError(f"{model.path}: `inputs` has {session.inputs}, expected {wanted}")
    if session.outputs != [*outputs]:
        raise InputError(f"{model.path}: `outputs` has {session.outputs}, expected {' and '.join(outputs)}")


def predict(model: Model, image: Image | Path | str) -> Prediction:
    """Answer one image.

    Args:
        image: An image, or the file or series folder to read it from.

    Raises:
        InputError: The image cannot be read, does not fit the model's recipe, or the answer is not finite.

    Example:
        >>> class Toy:  # in the place of a session that `load_model` opened
        ...     outputs = ("probabilities", "distance")
        ...     def run(self, feeds):
        ...         return [np.array([[0.25, 0.75]], np.float32), np.array([3.0], np.float32)]
        >>> recipe = Recipe(name="lesion", kind="classification", classes=("benign", "malignant"))
        >>> manifest = Manifest.model_construct(recipe=recipe, known_threshold=9.0)
        >>> image = Image(np.zeros((1, 64, 64), np.float32), None, None, "", "png", Path("a.png"))
        >>> answer = predict(Model(Path("lesion.onnx"), "0" * 64, manifest, Toy()), image)
        >>> answer.label, answer.probabilities["malignant"], answer.known
        ('malignant', 0.75, True)
    """
    started, watch = time.perf_counter(), Stopwatch()
    if not isinstance(image, Image):
        with watch.stage("read"):
            image = read_image(image)
    asked = _Asked(model, watch)
    try:
        flat = model.recipe.dimensions == 2
        shares, mask, warnings = (_answer_2d if flat else _answer_3d)(asked, image)
    except InputError as error:
        prefix = "" if str(error).startswith(str(image.source)) else f"{image.source}: "
        raise type(error)(f"{prefix}{error}", hint=error.hint) from None
    distance, threshold = float(np.mean(asked.distances)), model.manifest.known_threshold
    if threshold is not None and distance > threshold:
        warnings.insert(0, UNLIKE)
    classes = model.recipe.classes
    return Prediction(
        image=image,
        probabilities=dict(zip(classes, shares.tolist(), strict=True)),
        label=classes[int(shares.argmax())] if mask is None else None,
        mask=mask,
        distance=distance,
        threshold=threshold,
        seconds=time.perf_counter() - started,
        stages=watch.seconds,
        warnings=(*warnings, *image.warnings),
    )


_Answer = tuple[Float64, UInt8 | None, list[str]]
"""(C,) shares, the mask of a segmentation, warnings."""


def _answer_2d(asked: "_Asked", image: Image) -> _Answer:
    recipe = asked.model.recipe
    with asked.watch.stage("prepare"):
        prepared = prepare(image, recipe)
    whole = asked.run(prepared.pixels)
    warnings = _warnings(recipe, image, prepared.valid)
    if recipe.kind == "classification":
        return whole.astype(np.float64), None, warnings
    with asked.watch.stage("blend"):
        shares = whole.reshape(len(whole), -1).mean(axis=1, dtype=np.float64)
        return shares, restore(whole, prepared), warnings


def _answer_3d(asked: "_Asked", image: Image) -> _Answer:
    # Only for volumes: a picture is answered without them.
    from fedmed_edge.images.slabs import label_volume
    from fedmed_edge.images.volume_grid import VolumeGrid

    recipe, watch = asked.model.recipe, asked.watch
    with watch.stage("prepare"):
        grid = VolumeGrid(image, recipe)
    warnings = _warnings(recipe, image, grid.valid)

    def answer(start: tuple[int, ...]) -> Float32:
        with watch.stage("prepare"):
            window = grid.window(start, recipe.size)
        return asked.run(window, once=start)

    if recipe.kind == "classification":
        starts = window_starts(grid.shape, recipe.size, 0.0)
        return _geometric_mean([answer(start) for start in starts]), None, warnings
    with watch.stage("blend"):
        mask, shares = label_volume(grid, recipe.size, answer, classes=len(recipe.classes))
        return shares, mask, [*warnings, *_cut_off(mask, recipe.classes)]


def _geometric_mean(answers: list[Float32]) -> Float64:
    """Normalised geometric mean over windows side by side: the softmax of the mean of their rows."""
    with np.errstate(divide="ignore"):
        logarithms = np.log(np.stack(answers).astype(np.float64)).mean(axis=0)
    powers = np.exp(logarithms - logarithms.max())
    shares: Float64 = powers / powers.sum()
    return shares


class _Asked:
    """Runs of a model for one image.

    Attributes:
        distances: Of each window, once.
    """

    def __init__(self, model: Model, watch: Stopwatch) -> None:
        self.model, self.watch = model, watch
        self._distances: dict[tuple[int, ...], float] = {}

    @property
    def distances(self) -> list[float]:
        return list(self._distances.values())

    def run(self, window: Float32, *, once: tuple[int, ...] = ()) -> Float32:
        """Probabilities of a window; `once` names it, as a window may be asked for again."""
        with self.watch.stage("network"):
            probabilities, self._distances[once] = _run(self.model, window)
        return probabilities


def _run(model: Model, window: Float32) -> tuple[Float32, float]:
    probabilities, distance = model.run(window)
    kind = model.recipe.kind
    wanted = (len(model.recipe.classes), *(model.recipe.size if kind == "segmentation" else ()))
    if probabilities.shape != wanted:
        raise InputError(f"`probabilities` has shape {(1, *probabilities.shape)}, expected {(1, *wanted)}")
    if not (np.isfinite(probabilities).all() and np.isfinite(distance)):
        raise InputError("`probabilities` has NaN or infinite values, expected numbers")
    return np.ascontiguousarray(probabilities, np.float32), distance


def _warnings(recipe: Recipe, image: Image, valid: tuple[int, ...]) -> list[str]:
    found = []
    if recipe.modality and image.format == "dicom" and not image.modality:
        found.append(f"modality: the file states none, expected {' or '.join(recipe.modality)}")
    if recipe.dimensions == 3 and any(v < s for v, s in zip(valid, recipe.size, strict=True)):
        found.append("padded: the volume is smaller than the model's window")
    if recipe.spacing_mm is not None and image.spacing_mm is not None:
        apart, finest = max(image.spacing_mm), max(recipe.spacing_mm)
        if apart > _COARSE * finest:
            found.append(f"coarse: slices are {apart:.1f} mm apart, the model works at {finest:.1f} mm")
    return found


def _cut_off(mask: UInt8, classes: tuple[str, ...]) -> list[str]:
    """A warning for each class but the first that reaches the first or last slice."""
    cut = np.union1d(mask[..., 0], mask[..., -1])
    return [
        f"edge: {classes[number]} reaches the border of the scan, its volume may be incomplete"
        for number in cut.tolist()
        if number > 0
    ]
