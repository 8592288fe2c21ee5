"""What a contribution says of itself: names, digests and numbers from short lists, no free text."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from fedmed_edge.config import PARTS, Part
from fedmed_edge.recipe import Frozen, Kind, Name

__all__ = ["ContributionHeader", "Evidence", "Privacy", "canonical_json"]

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=1 << 53)]
MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z.+_-]{1,40}$")]
Program = Literal["fedmed_edge", "python", "numpy", "torch", "monai", "onnxruntime"]


class Privacy(Frozen):
    """Differential privacy: patient as unit, clipped, Gaussian noise on Grams, or on a training's gradients.

    Attributes:
        epsilon, delta: Of this one release, or of the whole training.
        clip: Most Frobenius norm of one patient's scaled mean Grams, all classes together; or of one
            patient's gradient.
        noise: Standard deviation of the noise, over the clip.
        rows: Rows that a patient of a class counts as, so that the sums stand beside exact ones of pixels.
        sampling: Training: probability with which a patient is in a step.
        steps: Training: how many it had.
    """

    epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    clip: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    noise: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    rows: Annotated[int, Field(ge=1, le=1 << 30)] = 1
    sampling: Annotated[float, Field(gt=0, le=1)] = 1.0
    steps: Annotated[int, Field(ge=1, le=1 << 30)] = 1


class Evidence(Frozen):
    """What a site tells about its own work, from a fixed list.

    Attributes:
        images: Images by split.
        patients: Patients by class; only of classes that are in the sums.
        metrics: Local validation figures.
        versions: Versions of the programs that made the contribution.
        seed: Seed of the local work.
    """

    images: dict[Literal["train", "test"], Count] = Field(default_factory=dict)
    patients: dict[str, Count] = Field(default_factory=dict, max_length=1000)
    metrics: dict[MetricName, Annotated[float, Field(allow_inf_nan=False)]] = Field(
        default_factory=dict, max_length=64
    )
    versions: dict[Program, Version] = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=0, le=1 << 53)] | None = None


class ContributionHeader(Frozen):
    """Everything in a contribution beside its tensors.

    Attributes:
        generation: Digest of the generation that the features were made with.
        recipe: Digest of the recipe.
        task: Name of the recipe.
        classes: Class names, in the order of the tensors' class axis.
        absent: Classes that `min_cohort` left out.
        row_dim: D, width of a lifted row; 0 where no sums are handed over.
        feature_dim: F, width of an image's pooled feature; 0 where no sums are handed over.
        site: Name that the site is enrolled under.
        sequence: Rises with every contribution of the site.
        parts: What is in the file, in the order of `PARTS`.
        folds: 0, 2 or 5.
        mode: How products were summed; `exact` is float64.
        share_style: The site consents that its style is passed on to other sites.
    """

    format_version: Literal[1] = 1
    generation: Digest
    recipe: Digest
    task: Name
    kind: Kind
    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)]
    absent: tuple[str, ...] = ()
    row_dim: Annotated[int, Field(ge=0, le=8192)] = 0
    feature_dim: Annotated[int, Field(ge=0, le=8192)] = 0
    site: Name
    sequence: Annotated[int, Field(ge=1, le=1 << 53)]
    parts: Annotated[tuple[Part, ...], Field(min_length=1)]
    folds: Literal[0, 2, 5] = 0
    min_cohort: Annotated[int, Field(ge=1, le=1 << 20)] = 10
    mode: Literal["exact"] = "exact"
    share_style: bool = False
    privacy: Privacy | None = None
    evidence: Evidence = Evidence()

    @field_validator("classes")
    @classmethod
    def _class_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if any(not name or len(name) > 64 or not name.isprintable() for name in names):
            raise ValueError("expected names of 1 to 64 printable characters")
        if len(set(names)) != len(names):
            raise ValueError("has a name twice")
        return names

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not set(self.absent) <= set(self.classes) or len(set(self.absent)) != len(self.absent):
            raise ValueError("`absent` has a name that is not in `classes`, or twice")
        if tuple(part for part in PARTS if part in self.parts) != self.parts:
            raise ValueError(f"`parts` has {list(self.parts)}, expected an order as in {list(PARTS)}")
        if not set(self.evidence.patients) <= set(self.classes) - set(self.absent):
            raise ValueError("`evidence.patients` has a class that is absent or unknown")
        sums = self.parts != ("weights",)
        if sums != (self.row_dim > 0) or sums != (self.feature_dim > 0):
            raise ValueError("`row_dim` and `feature_dim` are expected with sums, and only there")
        if self.privacy is not None and not self._tells_noise_alone():
            raise ValueError(
                "`privacy` goes with `classes` or `weights` alone, without folds, style, images or figures"
            )
        return self

    def _tells_noise_alone(self) -> bool:
        told = self.evidence
        exact = told.images or told.patients or told.metrics or self.share_style or self.folds
        return self.parts in (("classes",), ("weights",)) and not exact

    @property
    def values(self) -> dict[str, Any]:
        """The header as it is written: JSON values, those that are defaults left out.

        A later release may add a field with a default, and the header of an old file still reads the same.
        """
        return {"format_version": self.format_version, **self.model_dump(mode="json", exclude_defaults=True)}

    @property
    def canonical(self) -> str:
        """The one way to write this header, which the signature is over."""
        return canonical_json(self.values)


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces, ASCII only; NaN and Inf are refused (`ValueError`)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
