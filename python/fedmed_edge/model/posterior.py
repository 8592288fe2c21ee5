"""Scores to probabilities: class-conditional Gaussians of the scores, stated priors and one temperature.

The scores of a least-squares head are no logits: a perfect head under a softmax gives 0.73 for two classes.
Their Gaussians follow from the sums alone, hᵀμ_k and hᵀΣ_k h. With one covariance for all classes the
posterior is a softmax of a linear function of the scores, so the exported model stays a matrix product.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedmed_edge.model.solve import quadratic
from fedmed_edge.model.sums import Part
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.calibration import TEMPERATURES
from fedmed_edge.statistics.feature_statistics import Array64

LEAST_SHRINKAGE = 1e-3
"""Least share of the mean variance in the shared covariance: scores add up to 1, so it is nearly singular."""

ABSENT_BIAS = -1e4
"""Bias of a class that no site has. Another class always has a logit of at least 0, so it comes out 0."""

MANY_CLASSES = 128
"""Above this many classes the covariances are pooled as they come, since C³ values would not fit."""

_DRAWS = 8192
_LEAST_GAP = 1e-4


@dataclass(frozen=True, eq=False)
class Posterior:
    """probabilities = softmax((scores · weight + bias) / temperature).

    Attributes:
        weight: (C, C) float64.
        bias: (C,) float64, log-priors included.
        priors: (C,), 0 for a class that no site has.
    """

    weight: Array64 = field(repr=False)
    bias: Array64 = field(repr=False)
    temperature: float
    priors: Array64

    def probabilities(self, scores: Array64) -> Array64:
        """(N, C) of scores (N, C)."""
        return softmax((scores @ self.weight + self.bias) / self.temperature)


def softmax(logits: Array64) -> Array64:
    """Softmax over the last axis.

    Example:
        >>> softmax(np.array([[0.0, 0.0]]))
        array([[0.5, 0.5]])
    """
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    out: Array64 = powers / powers.sum(axis=-1, keepdims=True)
    return out


@dataclass(eq=False)
class Moments:
    """Count, sum and second moment of the scores of each class; added to in place.

    Attributes:
        count: (C,).
        first: (C, C), one row a class.
        second: (C, C, C), or (1, C, C) already pooled with the weights `pooling`.
        pooling: (C,) weight of a row of each class in a pooled second moment; None keeps classes apart.
    """

    count: Array64
    first: Array64
    second: Array64
    pooling: Array64 | None = None

    @classmethod
    def zeros(cls, counts: Array64, priors: Array64) -> "Moments":
        """Nothing counted yet; `counts` (C,) and `priors` (C,) decide how many classes are pooled."""
        classes = len(counts)
        if classes <= MANY_CLASSES:
            return cls(np.zeros(classes), np.zeros((classes,) * 2), np.zeros((classes,) * 3))
        pooling = np.divide(priors, counts, out=np.zeros(classes), where=counts > 0)
        return cls(np.zeros(classes), np.zeros((classes,) * 2), np.zeros((1, classes, classes)), pooling)

    def add(self, head: Array64, part: Part, weight: float) -> None:
        """Add the scores of `part` under `head` (D, C), each row counting `weight`."""
        self.count[part.present] += weight * part.counts
        self.first[part.present] += weight * (part.sums @ head)
        for index, gram in zip(part.present, part.grams, strict=True):
            slot, share = (index, 1.0) if self.pooling is None else (0, self.pooling[index])
            if share > 0.0:
                self.second[slot] += share * weight * quadratic(gram, head)


@dataclass(frozen=True, eq=False)
class ScoreGaussians:
    """Gaussians of the scores, one a class.

    Attributes:
        mean: (C, C), one row a class.
        spread: (C, C, C) covariances, or (1, C, C) one for all.
        present: (C,) True for a class that has rows.
    """

    mean: Array64 = field(repr=False)
    spread: Array64 = field(repr=False)
    present: npt.NDArray[np.bool_]

    def shared(self, priors: Array64) -> Array64:
        """(C, C) the one covariance: classes weighted by their priors."""
        if len(self.spread) == 1:
            own: Array64 = self.spread[0]
            return own
        pooled: Array64 = np.tensordot(priors, self.spread, 1)
        return pooled


def gaussians(moments: Moments, priors: Array64, gap: Array64) -> ScoreGaussians:
    """Turn moments into Gaussians, and in-sample scores into what held-out ones would be.

    A row of leverage h has the residual r / (1 − h) once it is left out. So where the scores of class k
    were measured on rows that the head had seen, its residuals e_k − s are stretched by 1 / gap_k, the
    class's mean 1 − h.

    Args:
        priors: (C,) weights of the classes, for pooled moments.
        gap: (C,) 1 for a class measured on held-out rows.

    Source: the leave-one-out residual, Allen 1974; its mean over rows, Golub, Heath and Wahba 1979.
    """
    present = moments.count > 0
    count = np.where(present, moments.count, 1.0)
    mean = moments.first / count[:, None]
    outer = mean[:, :, None] * mean[:, None, :]
    if moments.pooling is None:
        spread = moments.second / count[:, None, None] - outer
        spread /= (np.maximum(gap, _LEAST_GAP) ** 2)[:, None, None]
    else:
        spread = moments.second - np.tensordot(priors * present, outer, 1)
        spread /= np.average(np.maximum(gap, _LEAST_GAP), weights=priors) ** 2
    own = np.eye(len(count))
    mean = own - (own - mean) / np.maximum(gap, _LEAST_GAP)[:, None]
    return ScoreGaussians(mean, spread, present)


def class_priors(recipe: Recipe, counts: Array64) -> Array64:
    """(C,) priors as the recipe says, over the classes that have rows.

    Args:
        counts: (C,) rows of every class, over all sites.

    Example:
        >>> recipe = Recipe(name="r", kind="classification", classes=("a", "b"), priors="counted")
        >>> class_priors(recipe, np.array([1.0, 3.0]))
        array([0.25, 0.75])
    """
    shares = counts if recipe.priors == "counted" else (counts > 0).astype(np.float64)
    out: Array64 = shares / max(float(shares.sum()), 1.0)
    return out


def oas_shrinkage(covariance: Array64, samples: float) -> float:
    """Share of the mean variance to mix in so that a covariance of few samples can be inverted, 0 to 1.

    Args:
        covariance: (C, C), of `samples` independent samples.

    Source: oracle approximating shrinkage, Chen, Wiesel, Eldar and Hero 2010, eq. 23.

    Example:
        >>> oas_shrinkage(np.eye(2), 10)
        1.0
    """
    size = len(covariance)
    square, trace = float(np.sum(covariance**2)), float(np.trace(covariance))
    numerator = (1.0 - 2.0 / size) * square + trace**2
    denominator = (samples + 1.0 - 2.0 / size) * (square - trace**2 / size)
    return 1.0 if denominator <= numerator else float(numerator / denominator)


def fit_posterior(
    scores: ScoreGaussians, priors: Array64, patients: int, temperature: float | None = None
) -> Posterior:
    """Posterior of shared-covariance Gaussians.

    Args:
        priors: (C,), 0 for absent classes.
        patients: Independent samples behind the covariance, for its shrinkage.
        temperature: None: the one that fits the Gaussians of the classes best (`gaussian_temperature`).

    Source: method §3.
    """
    present = scores.present
    mean, kept = scores.mean[np.ix_(present, present)], priors[present]
    covariance = scores.shared(priors)[np.ix_(present, present)]
    size = len(covariance)
    level = max(float(np.trace(covariance)) / size, np.finfo(np.float64).tiny)
    share = max(oas_shrinkage(covariance, patients), LEAST_SHRINKAGE) if size > 1 else 1.0
    direction = np.linalg.solve((1.0 - share) * covariance + share * level * np.eye(size), mean.T)
    bias = np.log(kept) - 0.5 * np.sum(mean.T * direction, axis=0)
    # A common term cancels in the softmax. Without it the largest logit is never below 0.
    weight_full, bias_full = np.zeros((len(priors),) * 2), np.full(len(priors), ABSENT_BIAS)
    weight_full[np.ix_(present, present)] = direction - direction.mean(axis=1, keepdims=True)
    bias_full[present] = bias - bias.mean()
    posterior = Posterior(weight_full, bias_full, 1.0, priors)
    if temperature is None:
        temperature = gaussian_temperature(posterior, scores)
    return Posterior(weight_full, bias_full, temperature, priors)


def draw(scores: ScoreGaussians) -> tuple[Array64, list[int]]:
    """Scores drawn from each class's own Gaussian, the same draws every time.

    Returns:
        (present classes, draws, C) scores; the present classes.
    """
    classes = len(scores.present)
    indices = np.flatnonzero(scores.present).tolist()
    noise = np.random.Generator(np.random.PCG64(0)).standard_normal((max(64, _DRAWS // classes), classes))
    noise = np.concatenate([noise, -noise])
    drawn = []
    for index in indices:
        values, vectors = np.linalg.eigh(scores.spread[index if len(scores.spread) > 1 else 0])
        spread = vectors * np.sqrt(np.maximum(values, 0.0))
        drawn.append(noise @ spread.T + scores.mean[index])
    return np.stack(drawn), indices


def gaussian_temperature(posterior: Posterior, scores: ScoreGaussians) -> float:
    """Temperature with the least expected −log p where every class has its own covariance.

    The one shared covariance is too narrow for some classes; this is what it costs. Among temperatures that
    are equal to 1e-3 the largest, the least sure, is taken.
    """
    drawn, indices = draw(scores)
    logits = drawn @ posterior.weight + posterior.bias
    logits -= logits.max(axis=-1, keepdims=True)
    losses = []
    for temperature in TEMPERATURES:
        scaled = logits / temperature
        log_sum = np.log(np.exp(scaled).sum(axis=-1))
        own = np.stack([scaled[place, :, index] for place, index in enumerate(indices)])
        losses.append(float(posterior.priors[indices] @ (log_sum - own).mean(axis=1)))
    best = min(losses)
    return float(max(t for t, loss in zip(TEMPERATURES, losses, strict=True) if loss <= best + 1e-3))


def expected_recall(posterior: Posterior, scores: ScoreGaussians) -> Array64:
    """(C,) share of each class's Gaussian that the posterior answers rightly; NaN for a class without rows.

    A proxy: recall on real images where scores are Gaussian.
    """
    drawn, indices = draw(scores)
    answers = (drawn @ posterior.weight + posterior.bias).argmax(axis=-1)
    recall = np.full(len(scores.present), np.nan)
    recall[indices] = (answers == np.array(indices)[:, None]).mean(axis=1)
    return recall
