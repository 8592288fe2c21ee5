"""Masked image modelling: a backbone learns without labels first, then everybody trains from it."""

from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmed_edge.features.backbones import seeded, state_of
from fedmed_edge.features.training import Network, SiteTraining
from fedmed_edge.features.weights import Weights
from fedmed_edge.study.methods.averaging import FedAvg
from fedmed_edge.study.methods.method import Case
from fedmed_edge.study.methods.work import Learned, Option
from fedmed_edge.study.networks import merged

PATCHES = 8
"""Patches along each side of an image (window)."""

HIDDEN = 0.6
"""Share of the patches that are hidden."""

_DECODER = "decoder."


def mim(case: Case, option: Option) -> Iterator[Learned]:
    """FedAvg from a backbone that filled in hidden patches of the others' training images, labels unused.

    Those images stand for the unlabelled pool that a server would have; its training is one cycle of
    `pooled`, at the server. A patch that is hidden gets the image's mean; a 1×1 convolution of every scale,
    summed, gives the picture back; the loss is L1 on what was hidden.

    Source: Xie et al., SimMIM, CVPR 2022.
    """
    trained = FedAvg(case, option, _filled_in(case))
    for number in count():
        trained.cycle(number)
        yield trained.learned()


def _filled_in(case: Case) -> Weights:
    pool = {site: data for site, data in case.labelled.items() if site != case.site}
    network, steps = _Masked(case.fresh(), case.seed), case.budget.pooled_steps
    training = SiteTraining(
        network,
        {"pool": merged(pool)},
        steps=steps,
        batch=case.budget.batch,
        seed=case.seed,
        device=case.device,
        progress=case.watch,
    )
    with training.round(0):
        state = training.turn("pool", state_of(network), range(steps), objective=_fill_in)
    case.meter.server_seconds += training.seconds["pool"]
    return {name: value for name, value in state.items() if not name.startswith(_DECODER)}


class _Masked(Network):
    """A network with a decoder of its backbone's scales beside the heads."""

    def __init__(self, network: Network, seed: int) -> None:
        convolution = nn.Conv2d if network.recipe.dimensions == 2 else nn.Conv3d
        with seeded(seed + 3):
            super().__init__(network.backbone, network.recipe)
            self.heads = network.heads
            self.decoder = nn.ModuleList(
                convolution(width, network.recipe.channels, 1) for width in network.backbone.widths
            )

    def picture(self, image: Tensor) -> Tensor:
        """What the scales say the image (B, C, *size) is; the input itself is not one of them."""
        mode = "bilinear" if self.recipe.dimensions == 2 else "trilinear"
        first = int(self.backbone.input_scale)
        parts = [
            functional.interpolate(decode(scale), size=image.shape[2:], mode=mode, align_corners=False)
            for decode, scale in list(zip(self.decoder, self.backbone(image), strict=True))[first:]
        ]
        return torch.stack(parts).sum(dim=0)


def _fill_in(network: Network, images: Tensor, targets: Tensor) -> Tensor:
    """L1 on the hidden patches."""
    assert isinstance(network, _Masked)
    # Drawn on the host, whose generator a round has seeded.
    drawn = torch.rand(len(images), 1, *(PATCHES,) * (images.ndim - 2)) < HIDDEN
    hidden = functional.interpolate(drawn.float(), size=images.shape[2:]).to(images.device)
    mean = images.mean(dim=tuple(range(1, images.ndim)), keepdim=True)
    picture = network.picture(images * (1 - hidden) + mean * hidden).float()
    missing = hidden.sum().clamp_min(1) * images.shape[1]
    loss: Tensor = ((picture - images).abs() * hidden).sum() / missing
    return loss
