"""Every image and mask is read once before hours of work go into a task, and all faults are told at once."""

from collections.abc import Callable, Mapping

from fedmed_edge.errors import InputError
from fedmed_edge.images.dataset import Dataset, Item
from fedmed_edge.images.preprocess import check_fits, one_channel
from fedmed_edge.words import counted

SHOWN = 5


def check_usable(data: Mapping[str, Dataset], watch: Callable[[str], None]) -> None:
    """Read all images and masks of a task.

    Args:
        data: Site → its whole data set.
        watch: Called after every image.

    Raises:
        InputError: Some cannot be read or are not what the recipe takes; the first of them are named.
    """
    faults: list[InputError] = []
    for site, dataset in data.items():
        for number, item in enumerate(dataset, 1):
            try:
                _read(dataset, item)
            except InputError as error:
                faults.append(error)
            watch(f"reading {site}, {number} of {len(dataset)}")
    if not faults:
        return
    hint = faults[0].hint or _LEAVE_OUT
    if len(faults) == 1:
        raise InputError(str(faults[0]), hint=hint)
    named = "; ".join(str(error) for error in faults[:SHOWN])
    rest = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    raise InputError(f"{counted(len(faults), 'image')} cannot be used: {named}{rest}", hint=hint)


_LEAVE_OUT = "take what is broken out of labels.csv, or out of its class folder"


def _read(dataset: Dataset, item: Item) -> None:
    image = dataset.load(item)
    check_fits(image, dataset.recipe)
    if dataset.recipe.channels == 1:
        one_channel(image)
    if item.mask is not None:
        dataset.load_mask(item, image)
