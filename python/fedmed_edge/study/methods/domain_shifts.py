"""FedDG: every image is also seen with the amplitude spectrum of another hospital's, episode by episode."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedmed_edge.features.objectives import shifted_objective
from fedmed_edge.features.shifts import Shift
from fedmed_edge.features.training import SiteTraining
from fedmed_edge.features.weights import Weights
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.images.preprocess import prepare
from fedmed_edge.images.windows import cover
from fedmed_edge.study.methods.averaging import FedAvg
from fedmed_edge.study.methods.work import Option, Work

Float32 = npt.NDArray[np.float32]

BLOCK = 0.1
"""Relative size of the low-frequency block that is exchanged."""

BANK = 32
"""Spectra that a site hands over, at most."""


class FedDG(FedAvg):
    """Amplitudes of single images are shared by all sites; a step on the original, the loss on the shifted.

    Phases are kept; the low-frequency amplitude moves a random part of the way towards another site's image,
    in place of our move towards another site's style; all other shifts are those of every method. The inner
    step is of first order. The paper's third part, a contrastive loss at boundaries, needs one organ's
    boundary and is left out. What is shared shows single patients: it is here to be compared with.

    Source: Liu et al., CVPR 2021.
    """

    def __init__(self, work: Work, option: Option) -> None:
        super().__init__(work, option)
        bank = {site: _spectra(data, work.seed) for site, data in work.labelled.items()}
        size = {site: spectra.nbytes for site, spectra in bank.items()}
        for site, own in size.items():
            work.meter.transfer(site, sent=own, received=sum(size.values()) - own)
        how = work.recipe.training.model_copy(update={"amplitude": 1.0, "episodic": True, "consistency": 0.0})
        self.objectives = {}
        for index, site in enumerate(bank):
            others = [spectra for name, spectra in bank.items() if name != site] or [bank[site]]
            amplitude = _towards(np.concatenate(others), (work.seed, 5, index))
            shift = Shift(work.recipe, how=how, amplitude=amplitude, seed=work.seed + 1000 * index)
            self.objectives[site] = shifted_objective(work.recipe, shift, how, weight=option["weight"])

    def turn(self, training: SiteTraining, site: str, span: range) -> Weights:
        """As `FedAvg.turn`."""
        self.exchange(site)
        return training.turn(site, self.common, span, objective=self.objectives[site])


def _towards(bank: Float32, seed: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """Moves images a random part of the way towards spectra of a bank."""
    random = np.random.default_rng(seed)

    def moved(images: Tensor) -> Tensor:
        picked = torch.from_numpy(bank[random.integers(len(bank), size=len(images))])
        parts = torch.from_numpy(random.random(len(images)).astype(np.float32))
        return interpolate(images, picked.to(images.device), parts.to(images.device))

    return moved


def interpolate(images: Tensor, amplitudes: Tensor, parts: Tensor) -> Tensor:
    """Low-frequency amplitudes moved a part of the way; phases stay.

    Args:
        images: (B, C, *size).
        amplitudes: (B, C, *block) of other images, centred.
        parts: (B,) 0 leaves an image as it is, 1 gives it the other's amplitude.
    """
    axes = tuple(range(2, images.ndim))
    spectrum = torch.fft.fftshift(torch.fft.fftn(images, dim=axes), dim=axes)
    places = (slice(None), slice(None), *block(tuple(images.shape[2:])))
    amplitude, phase = spectrum.abs(), spectrum.angle()
    share = parts.reshape(-1, *(1,) * (images.ndim - 1))
    amplitude[places] = (1 - share) * amplitude[places] + share * amplitudes
    changed = torch.fft.ifftshift(torch.polar(amplitude, phase), dim=axes)
    back: Tensor = torch.fft.ifftn(changed, dim=axes).real
    return back.to(images.dtype)


def block(size: tuple[int, ...]) -> tuple[slice, ...]:
    """The low-frequency block in the middle of a centred spectrum."""
    half = [max(1, int(side * BLOCK / 2)) for side in size]
    return tuple(
        slice(side // 2 - extent, side // 2 + extent + 1) for side, extent in zip(size, half, strict=True)
    )


def _spectra(data: Dataset, seed: int) -> Float32:
    """(n, C, *block) float32 amplitudes of some images, of a volume of its first window."""
    picked = np.random.default_rng(seed).permutation(len(data))[:BANK]
    made = []
    for index in picked:
        pixels = next(cover(prepare(data.load(data.items[index]), data.recipe).pixels, data.recipe.size))
        axes = tuple(range(1, pixels.ndim))
        spectrum = np.fft.fftshift(np.fft.fftn(pixels, axes=axes), axes=axes)
        made.append(np.abs(spectrum[(slice(None), *block(tuple(pixels.shape[1:])))]).astype(np.float32))
    return np.stack(made)
