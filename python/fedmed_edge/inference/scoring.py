"""How a model does on labelled images: the one figure that a site can tell without showing an image."""

import numpy as np

from fedmed_edge.errors import InputError
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.inference.predict import Model, predict
from fedmed_edge.metrics import balanced_accuracy, dice

__all__ = ["score_model"]


def score_model(model: Model, dataset: Dataset) -> float:
    """Balanced accuracy (classification) or mean Dice at the images' own size (segmentation), 0 to 1.

    Args:
        dataset: Its labelled images are answered; give `dataset.test`.

    Raises:
        InputError: No labelled image, other classes than the model's, or an image cannot be used.
    """
    labelled, recipe = dataset.labelled, dataset.recipe
    if model.recipe.classes != recipe.classes or model.recipe.kind != recipe.kind:
        raise InputError(f"model: is for {model.recipe.name}, expected the classes of {recipe.name}")
    if not len(labelled):
        raise InputError("validation: no labelled test image")
    if recipe.kind == "classification":
        answers = [recipe.classes.index(predict(model, item.image).label or "") for item in labelled]
        truth = np.array([item.label for item in labelled])
        return float(balanced_accuracy(np.array(answers), truth, np.ones((1, len(truth))))[0])
    values = []
    for item in labelled:
        image = labelled.load(item)
        mask = predict(model, image).mask
        assert mask is not None  # every answer of a segmentation has one
        values.append(dice(mask, labelled.load_mask(item, image), len(recipe.classes)))
    return float(np.mean(values))
