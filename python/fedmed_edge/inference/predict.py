"""One image, one signed model, one answer; torch-free and in memory."""

import hashlib
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedmed_edge.errors import InputError, TrustError
from fedmed_edge.images.image import Float32, Image, UInt8, read_image
from fedmed_edge.images.preprocess import Prepared, prepare, restore
from fedmed_edge.images.windows import blended, cover
from fedmed_edge.kinds import file_kind
from fedmed_edge.model.manifest import METADATA_KEY, Manifest, parse_manifest
from fedmed_edge.recipe import Recipe
from fedmed_edge.runtime import Session, as_batch, open_session

log = logging.getLogger(__name__)

UNLIKE = "unlike: the image is unlike those that the model was made from, so its answer may be wrong"


@dataclass(frozen=True, eq=False)
class Model:
    """A model whose signature was checked, loaded on a device.

    Attributes:
        path: File it came from.
        file_sha256: SHA-256 of the file, in hexadecimal.
        manifest: What it says of itself.
    """

    path: Path
    file_sha256: str
    manifest: Manifest
    session: Session = field(repr=False)

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
        warnings: What a reader of the answer should know, each beginning with a stable code.
    """

    image: Image = field(repr=False)
    probabilities: dict[str, float]
    label: str | None
    mask: UInt8 | None = field(repr=False)
    distance: float
    threshold: float | None
    seconds: float
    warnings: tuple[str, ...] = ()

    @property
    def known(self) -> bool | None:
        """Whether the image is like those that the model was made from."""
        return None if self.threshold is None else self.distance <= self.threshold


def load_model(path: Path | str, *, trust: Path | str | None, device: str = "auto") -> Model:
    """Load a model file after checking its signature.

    Args:
        path: ONNX file, its signature `path.sig` beside it.
        trust: PEM file of the server's public key.
        device: `auto`, `cpu`, `cuda` or `tensorrt`.

    Raises:
        TrustError: No key to trust, no signature, one by another key, or a file changed since.
        InputError: A file is missing, or the content is no exported model; names what else it is.
        DeviceError: The asked device did not come up.

    Example:
        >>> load_model("lesion.onnx", trust=None)
        Traceback (most recent call last):
        ...
        fedmed_edge.errors.TrustError: lesion.onnx: no key to check its signature against
    """
    path = Path(path)
    if trust is None:
        raise TrustError(
            f"{path}: no key to check its signature against",
            hint="name the server's public key with --trust, or as `server_key` in fedmed.toml",
        )
    kind = file_kind(path)
    if kind not in ("exported model", None):
        raise InputError(
            f"{path}: is a {kind}, expected an exported model", hint="`fedmed-server export` writes one"
        )
    # Loads a cryptography library: only where a signature is checked.
    from fedmed_edge.signing import read_public_key, verify_file

    content = verify_file(path, read_public_key(Path(trust)))
    session = open_session(content, device=device)
    text = session.metadata.get(METADATA_KEY)
    if text is None:
        raise InputError(f"{path}: has no manifest, expected a model made by `fedmed-server export`")
    model = Model(path, hashlib.sha256(content).hexdigest(), parse_manifest(text, str(path)), session)
    _check_graph(model)
    log.info("%s: %s on %s", path.name, model.manifest.task, model.device)
    return model


def _check_graph(model: Model) -> None:
    recipe = model.recipe
    wanted = {"image": (1, recipe.channels, *recipe.size)}
    if model.session.inputs != wanted:
        raise InputError(f"{model.path}: `inputs` has {model.session.inputs}, expected {wanted}")
    if model.session.outputs != ["probabilities", "distance"]:
        raise InputError(
            f"{model.path}: `outputs` has {model.session.outputs}, expected probabilities and distance"
        )


def predict(model: Model, image: Image | Path | str) -> Prediction:
    """Answer one image.

    Args:
        image: An image, or the file or series folder to read it from.

    Raises:
        InputError: The image cannot be read, does not fit the model's recipe, or the answer is not finite.

    Example:
        >>> class Toy:  # in the place of a session that `load_model` opened
        ...     def run(self, feeds):
        ...         return [np.array([[0.25, 0.75]], np.float32), np.array([3.0], np.float32)]
        >>> recipe = Recipe(name="lesion", kind="classification", classes=("benign", "malignant"))
        >>> manifest = Manifest.model_construct(recipe=recipe, known_threshold=9.0)
        >>> image = Image(np.zeros((1, 64, 64), np.float32), None, None, "", "png", Path("a.png"))
        >>> answer = predict(Model(Path("lesion.onnx"), "0" * 64, manifest, Toy()), image)
        >>> answer.label, answer.probabilities["malignant"], answer.known
        ('malignant', 0.75, True)
    """
    started = time.perf_counter()
    if not isinstance(image, Image):
        image = read_image(image)
    prepared = prepare(image, model.recipe)
    try:
        whole, distance = _answer(model, prepared)
    except InputError as error:
        raise InputError(f"{image.source}: {error}", hint=error.hint) from None
    mask, label = None, None
    if model.recipe.kind == "segmentation":
        mask = restore(whole, prepared)
        inside = whole[(slice(None), *(slice(side) for side in prepared.valid))]
        shares = inside.reshape(len(whole), -1).mean(axis=1, dtype=np.float64)
    else:
        shares = whole.astype(np.float64)
        label = model.recipe.classes[int(shares.argmax())]
    threshold = model.manifest.known_threshold
    warnings = _warnings(model.recipe, image, prepared)
    if threshold is not None and distance > threshold:
        warnings.insert(0, UNLIKE)
    return Prediction(
        image=image,
        probabilities=dict(zip(model.recipe.classes, shares.tolist(), strict=True)),
        label=label,
        mask=mask,
        distance=distance,
        threshold=threshold,
        seconds=time.perf_counter() - started,
        warnings=tuple(warnings),
    )


def _answer(model: Model, prepared: Prepared) -> tuple[Float32, float]:
    """Probabilities (C,) or (C, *grid), and the distance of the image: the mean over its windows."""
    if prepared.grid == model.recipe.size:
        return _run(model, prepared.pixels)
    return _classify(model, prepared) if model.recipe.kind == "classification" else _segment(model, prepared)


def _classify(model: Model, prepared: Prepared) -> tuple[Float32, float]:
    """Normalised geometric mean over windows side by side: the softmax of the mean of their rows."""
    answers = [_run(model, window) for window in cover(prepared.pixels, model.recipe.size)]
    with np.errstate(divide="ignore"):
        logarithms = np.log([one.astype(np.float64) for one, _ in answers]).mean(axis=0)
    powers = np.exp(logarithms - logarithms.max())
    mean = np.asarray(powers / powers.sum(), np.float32)
    return mean, float(np.mean([distance for _, distance in answers]))


def _segment(model: Model, prepared: Prepared) -> tuple[Float32, float]:
    """Windows that overlap, blended."""
    distances = []

    def answer(window: Float32) -> Float32:
        probabilities, distance = _run(model, window)
        distances.append(distance)
        return probabilities

    whole = blended(prepared.pixels, model.recipe.size, answer, channels=len(model.recipe.classes))
    return whole, float(np.mean(distances))


def _run(model: Model, window: Float32) -> tuple[Float32, float]:
    probabilities, distance = model.session.run({"image": as_batch(window)})
    kind = model.recipe.kind
    wanted = (len(model.recipe.classes), *(model.recipe.size if kind == "segmentation" else ()))
    if probabilities.shape != (1, *wanted):
        raise InputError(f"`probabilities` has shape {probabilities.shape}, expected {(1, *wanted)}")
    if not (np.isfinite(probabilities).all() and np.isfinite(distance).all()):
        raise InputError("`probabilities` has NaN or infinite values, expected numbers")
    return np.ascontiguousarray(probabilities[0], np.float32), float(distance.reshape(-1)[0])


def _warnings(recipe: Recipe, image: Image, prepared: Prepared) -> list[str]:
    found = []
    if recipe.modality and image.format == "dicom" and not image.modality:
        found.append(f"modality: the file states none, expected {' or '.join(recipe.modality)}")
    if recipe.dimensions == 3 and any(v < s for v, s in zip(prepared.valid, recipe.size, strict=True)):
        found.append("padded: the volume is smaller than the model's window")
    return found
