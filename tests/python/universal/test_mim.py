from typing import Any

import numpy as np
import pytest
import torch

from fedmed_edge.features.backbones import build_backbone
from fedmed_edge.recipe import Backbone, Kind
from fedmed_edge.universal.mim import MASKED, MaskedModelling, _spread, draw_mask, scales_of

NETWORKS: list[tuple[Backbone, Kind, int, tuple[int, ...], tuple[int, ...]]] = [
    (Backbone(widths=(8, 12)), "classification", 1, (32, 32), (16, 16)),
    (Backbone(widths=(8, 12, 16)), "classification", 3, (28, 28), (7, 7)),
    (Backbone(network="unet", widths=(4, 8, 12)), "segmentation", 3, (32, 40), (8, 10)),
    (Backbone(network="unet", widths=(4, 8)), "segmentation", 1, (16, 16, 8), (8, 8, 4)),
    (
        Backbone(
            network="ViT",
            arguments={"hidden_size": 24, "mlp_dim": 48, "num_layers": 4, "num_heads": 4, "patch_size": 8},
        ),
        "classification",
        1,
        (32, 32),
        (4, 4),
    ),
]


@pytest.mark.parametrize("case", NETWORKS, ids=lambda case: f"{case[0].network}-{case[3]}")
def test_every_network_learns_to_bring_hidden_pixels_back(case: Any) -> None:
    backbone, kind, channels, size, patches = case
    network = build_backbone(backbone, kind=kind, channels=channels, size=size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MaskedModelling(network, channels, size)
        images = torch.rand(2, channels, *[1] * len(size)).expand(2, channels, *size).contiguous()
    assert model.patches == patches
    random, losses = torch.Generator().manual_seed(0), []
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(25):
        mask = draw_mask(2, model.patches, size, random)
        loss = model.loss(scales_of(network, model.hide(images, mask)), images, mask)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    unused = [name for name, value in model.named_parameters() if value.grad is None]
    assert all(name.startswith("backbone.") for name in unused)


@pytest.mark.parametrize(
    ("patches", "size"), [((8, 8), (64, 64)), ((4, 6), (30, 42)), ((4, 4, 2), (16, 16, 8))]
)
def test_the_same_share_of_every_image_is_hidden_by_whole_patches(
    patches: tuple[int, ...], size: tuple[int, ...]
) -> None:
    mask = draw_mask(5, patches, size, torch.Generator().manual_seed(1)).numpy()
    assert mask.shape == (5, 1, *size) and mask.dtype == bool
    places = [np.arange(side) * count // side for side, count in zip(size, patches, strict=True)]
    number = np.ravel_multi_index(np.meshgrid(*places, indexing="ij"), patches)
    hidden = [{int(one) for one in number[image[0]]} for image in mask]
    for image, chosen in zip(mask, hidden, strict=True):
        assert len(chosen) == round(MASKED * np.prod(patches))
        np.testing.assert_array_equal(image[0], np.isin(number, list(chosen)))
    assert len({tuple(sorted(one)) for one in hidden}) > 1


def test_the_loss_is_the_mean_error_over_hidden_pixels_alone() -> None:
    network = build_backbone(Backbone(widths=(4, 8)), kind="classification", channels=3, size=(16, 16))
    model = MaskedModelling(network, 3, (16, 16))
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mask = draw_mask(2, model.patches, (16, 16), torch.Generator().manual_seed(2))
    with torch.no_grad():
        maps = scales_of(network, model.hide(images, mask))
        error = np.abs((model._pixels(maps) - images).numpy())
        wanted = error[np.broadcast_to(mask.numpy(), error.shape)].mean()
        assert float(model.loss(maps, images, mask)) == pytest.approx(wanted, rel=1e-5)
    hidden = model.hide(images, mask)
    assert bool((hidden[mask.expand_as(images)] == 0).all())
    assert torch.equal(hidden[~mask.expand_as(images)], images[~mask.expand_as(images)])


def test_channels_are_laid_out_as_torch_does_it() -> None:
    maps = torch.rand(2, 3 * 4 * 4, 5, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(_spread(maps, (4, 4)), torch.pixel_shuffle(maps, 4))
