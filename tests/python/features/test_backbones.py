import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets.unet import UNet

from fedmed_edge.errors import InputError
from fedmed_edge.features.backbones import build_backbone, load_weights, seeded, set_state, state_of
from fedmed_edge.recipe import Backbone

GROUPS: dict[str, Any] = {"norm": ["group", {"num_groups": 4}]}
TRANSFORMER = {"hidden_size": 24, "mlp_dim": 32, "num_layers": 6, "num_heads": 2, "patch_size": 8}


def made(network: str, size: tuple[int, ...], kind: Any = "segmentation", **fields: Any) -> Any:
    return build_backbone(Backbone(network=network, **fields), kind=kind, channels=1, size=size)


@pytest.mark.parametrize(
    ("network", "size", "fields", "widths", "last"),
    [
        ("residual_encoder", (28, 28), {"widths": (8, 16, 24)}, (8, 16, 24), (7, 7)),
        ("residual_encoder", (64, 64), {"widths": (8, 16)}, (8, 16), (16, 16)),
        ("residual_encoder", (16, 16, 16), {"widths": (4, 8)}, (4, 8), (8, 8, 8)),
        ("unet", (33, 27), {"widths": (8, 16, 24)}, (8, 16, 24, 16, 8), (33, 27)),
        ("unet", (17, 16, 9), {"widths": (4, 8)}, (4, 8, 4), (17, 16, 9)),
        ("unet", (16, 16), {"widths": (4, 8), "arguments": {"norm": "instance"}}, (4, 8, 4), (16, 16)),
        ("resnet10", (32, 32), {"arguments": GROUPS}, (64, 64, 128, 256, 512), (1, 1)),
        (
            "ResNet",
            (64, 64),
            {
                "widths": (4, 8, 12, 16),
                "arguments": {
                    "block": "basic",
                    "layers": [1, 1, 1, 1],
                    "norm": ["instance", {"affine": True}],
                },
            },
            (4, 4, 8, 12, 16),
            (2, 2),
        ),
        (
            "DenseNet",
            (32, 32),
            {"arguments": {**GROUPS, "init_features": 8, "growth_rate": 4, "block_config": [2, 2]}},
            (8, 8, 16),
            (4, 4),
        ),
        ("UNet", (16, 16), {"widths": (4, 8, 12)}, (4, 8, 12, 4, 4), (16, 16)),
        ("UNet", (8, 8, 8), {"widths": (4, 8), "arguments": {"num_res_units": 1}}, (4, 8, 4), (8, 8, 8)),
        ("SegResNet", (16, 16), {"widths": (8,)}, (8, 16, 32, 64, 32, 16, 8), (16, 16)),
        ("ViT", (32, 16), {"arguments": TRANSFORMER}, (24,) * 4, (4, 2)),
    ],
)
def test_maps_of_every_network(
    network: str, size: tuple[int, ...], fields: Any, widths: tuple[int, ...], last: tuple[int, ...]
) -> None:
    backbone = made(network, size, **fields)
    image = torch.rand(2, 1, *size)
    maps = backbone(image)
    assert backbone.widths == (1, *widths)
    assert [scale.shape[:2] for scale in maps] == [(2, width) for width in backbone.widths]
    assert maps[-1].shape[2:] == last
    torch.testing.assert_close(maps[0], image)
    assert made(network, size, kind="classification", **fields).widths == widths


def test_tapped_maps_are_the_networks_own() -> None:
    backbone = made("UNet", (16, 16), widths=(4, 8))
    assert isinstance(backbone.net.net, UNet)
    image = torch.rand(1, 1, 16, 16)
    torch.testing.assert_close(backbone(image)[-1], backbone.net.net(image))


def test_tokens_lie_where_their_patches_are() -> None:
    backbone = made("ViT", (32, 16), arguments=TRANSFORMER)
    # row-major patches: what the embedding gives for the patch at (3, 1) is token 7
    net, image = backbone.net.net, torch.rand(1, 1, 32, 16)
    _, hidden = net(image)
    torch.testing.assert_close(backbone(image)[1][0, :, 3, 1], hidden[1][0, 7])


@pytest.mark.parametrize("network", ["resnet18", "DenseNet121"])
def test_batch_norm_is_refused(network: str) -> None:
    with pytest.raises(
        InputError, match=f"`{network}` has BatchNorm, expected normalisation by image"
    ) as caught:
        made(network, (32, 32))
    assert "running statistics do not survive several hospitals" in str(caught.value)
    assert 'norm = ["group", {num_groups = 8}]' in (caught.value.hint or "")


@pytest.mark.parametrize("network", ["UNet", "resnet18", "DenseNet121"])
def test_running_statistics_of_other_norms_are_refused(network: str) -> None:
    """They would leave beside weights that were trained with noise, and have none themselves."""
    norm = ["instance", {"affine": True, "track_running_stats": True}]
    with pytest.raises(InputError, match=f"`{network}` has norm layers with running statistics"):
        made(network, (32, 32), arguments={"norm": norm})


@pytest.mark.parametrize(
    ("network", "size", "fields", "message"),
    [
        ("UNext", (16, 16), {}, "network `UNext`, expected one of residual_encoder, unet, .*SegResNet, ViT"),
        ("resnet18", (16, 16), {"arguments": {"pretrained": True}}, "`pretrained` would fetch weights"),
        (
            "unet",
            (16, 16),
            {"arguments": {"norm": "batch"}},
            "`norm` has batch, expected group, instance or mixed",
        ),
        ("unet", (16, 16), {"widths": (4,)}, r"`widths` has \(4,\), expected 2 to 8 numbers"),
        ("unet", (16, 16), {"arguments": {"depth": 3}}, "`unet` cannot be built: .*depth"),
        ("UNet", (18, 16), {"widths": (4, 8, 12)}, r"`UNet` cannot take images of size \(18, 16\)"),
    ],
)
def test_refusals(network: str, size: tuple[int, ...], fields: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(network, size, **fields)


def test_seed_decides_the_weights_and_leaves_torch_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two, other = (
        build_backbone(Backbone(widths=(8, 8)), kind="classification", channels=1, size=(16, 16), seed=seed)
        for seed in (1, 1, 2)
    )
    torch.testing.assert_close(torch.rand(3), expected)
    states = [state_of(net) for net in (one, two, other)]
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(np.array_equal(states[0][name], states[2][name]) for name in states[0])
    with seeded(3):
        drawn = torch.rand(1)
    with seeded(3):
        torch.testing.assert_close(torch.rand(1), drawn)


def test_state_round_trip_and_its_refusals() -> None:
    backbone = made("unet", (16, 16), widths=(4, 8))
    state = {name: value + 1 for name, value in state_of(backbone).items()}
    set_state(backbone, state)
    assert all(np.array_equal(value, state[name]) for name, value in state_of(backbone).items())
    first = next(iter(state))
    with pytest.raises(InputError, match=re.escape(f"file: `{first}` has shape (1,), expected (4, 1, 3, 3)")):
        set_state(backbone, state | {first: np.zeros(1, np.float32)}, "file")
    with pytest.raises(InputError, match="file: has an unknown tensor `more`"):
        set_state(backbone, state | {"more": np.zeros(1)}, "file")
    del state[first]
    with pytest.raises(InputError, match=f"file: has no tensor `{first}`"):
        set_state(backbone, state, "file")


def test_checkpoints_of_the_network_inside(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    backbone, other = made("UNet", (16, 16), widths=(4, 8)), made("UNet", (16, 16), widths=(4, 8))
    with torch.no_grad():
        for value in backbone.parameters():
            value.add_(1)
    inner = {f"module.{name}": value for name, value in backbone.net.net.state_dict().items()}
    torch.save({"state_dict": inner | {"classifier.weight": torch.zeros(2)}}, path)
    set_state(other, load_weights(path))
    assert all(np.array_equal(value, state_of(other)[name]) for name, value in state_of(backbone).items())


def test_checkpoint_refusals(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_weights(path)
    for content in (b"", b"nonsense", b"PK"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a checkpoint of tensors alone"):
            load_weights(path)
    torch.save({"model": made("unet", (16, 16), widths=(4, 8))}, path)
    with pytest.raises(InputError, match="not a checkpoint of tensors alone"):
        load_weights(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(InputError, match="not a checkpoint of tensors alone, expected tensors by name"):
        load_weights(path)
