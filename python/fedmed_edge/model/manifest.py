"""What an exported model says of itself: all that inference needs to know, as data.

Importing this module loads no runtime, no ONNX and no torch.
"""

import json
from typing import Literal

from pydantic import Field

from fedmed_edge.errors import InputError
from fedmed_edge.recipe import Frozen, Recipe, parse_settings

METADATA_KEY = "fedmed"
"""Key of the manifest among an ONNX model's metadata."""


class Manifest(Frozen):
    """The manifest of an exported model, in its metadata as JSON.

    Attributes:
        recipe: The whole recipe: preprocessing as data, classes, task.
        recipe_digest, generation, model: Digests of what it was made from.
        known_threshold: Squared Mahalanobis distance of an image above which it is unlike the sites' images;
            None: cannot be told.
        priors: Class priors of the probabilities, in the order of `recipe.classes`.
        temperature: The one temperature in them.
        absent: Classes that no site had; they always come out as 0.
        sites: How many sites are in it; their names stay at the server.
        refined_for: The site that it was refined for, and whether the refined head is in it.
        contributions: Ids of the contributions in it.
        provenance: In words, for the model card.
        withdrawn_notice: What a withdrawal does and does not take out of it.
    """

    format_version: Literal[1] = 1
    recipe: Recipe
    recipe_digest: str
    generation: str
    model: str
    known_threshold: float | None
    priors: tuple[float, ...]
    temperature: float
    ridge: float
    absent: tuple[str, ...] = ()
    sites: int = Field(ge=1)
    refined_for: str | None = None
    kept: Literal["global", "refined"] | None = None
    contributions: tuple[str, ...]
    provenance: str
    withdrawn_notice: str

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.recipe.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.recipe.classes

    @property
    def text(self) -> str:
        """Canonical JSON: equal manifests are equal texts."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def parse_manifest(text: str, where: str) -> Manifest:
    """Parse and check a manifest; `where` names the model file in messages.

    Raises:
        InputError: It is no JSON, lacks a field, or contradicts itself.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: manifest: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{where}: manifest: has {type(values).__name__}, expected a JSON object")
    manifest = parse_settings(Manifest, values, f"{where}: manifest")
    if manifest.recipe.digest != manifest.recipe_digest:
        raise InputError(
            f"{where}: manifest: `recipe_digest` has {manifest.recipe_digest[:12]}, "
            f"expected {manifest.recipe.digest[:12]}"
        )
    if len(manifest.priors) != len(manifest.classes):
        raise InputError(
            f"{where}: manifest: `priors` has {len(manifest.priors)} values, expected {len(manifest.classes)}"
        )
    return manifest
