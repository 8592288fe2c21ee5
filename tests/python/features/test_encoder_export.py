import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from fedmed_edge.encoder_graph import check_encoder
from fedmed_edge.errors import InputError
from fedmed_edge.features import encoder_export
from fedmed_edge.features.backbones import build_backbone
from fedmed_edge.features.encoder_export import export_encoder, output_names
from fedmed_edge.recipe import Backbone, Recipe
from fedmed_edge.runtime import open_session

GROUPS: dict[str, Any] = {"norm": ["group", {"num_groups": 4}]}
NETWORKS: list[tuple[Backbone, tuple[int, ...]]] = [
    (Backbone(widths=(8, 16)), (28, 28)),
    (Backbone(widths=(4, 8), arguments={"norm": "instance"}), (16, 16, 16)),
    (Backbone(network="unet", widths=(8, 16, 16)), (21, 34)),
    (Backbone(network="unet", widths=(4, 8)), (12, 9, 10)),
    (Backbone(network="resnet10", arguments=GROUPS), (32, 32)),
    (
        Backbone(
            network="DenseNet",
            arguments={**GROUPS, "init_features": 8, "growth_rate": 4, "block_config": [2, 2]},
        ),
        (32, 32),
    ),
    (Backbone(network="UNet", widths=(4, 8)), (16, 16)),
    (Backbone(network="SegResNet", widths=(8,)), (16, 16)),
    (
        Backbone(
            network="ViT",
            arguments={
                "hidden_size": 24,
                "mlp_dim": 32,
                "num_layers": 3,
                "num_heads": 2,
                "patch_size": 8,
            },
        ),
        (32, 16),
    ),
]


def described(make: SimpleNamespace, backbone: Backbone, size: tuple[int, ...]) -> tuple[Recipe, Any]:
    recipe = make.recipe("segmentation", size, backbone=backbone)
    return recipe, build_backbone(backbone, kind="segmentation", channels=1, size=size, seed=1)


@pytest.mark.parametrize(("backbone", "size"), NETWORKS, ids=lambda value: getattr(value, "network", None))
def test_runs_as_torch_does(make: SimpleNamespace, backbone: Backbone, size: tuple[int, ...]) -> None:
    recipe, network = described(make, backbone, size)
    content = export_encoder(network, recipe)
    check_encoder(content, channels=1, size=size, widths=network.widths, where="g")
    session = open_session(content, device="cpu")
    assert session.inputs == {"image": (1, 1, *size)}
    assert session.outputs == output_names(len(network.widths))
    image = np.random.default_rng(7).normal(0.5, 0.4, (1, 1, *size)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(image))
    for got, wanted in zip(session.run({"image": image}), expected, strict=True):
        scale = float(wanted.abs().max())
        assert np.abs(got - wanted.numpy()).max() <= 1e-3 * scale


def test_same_weights_same_bytes_and_no_path_in_them(make: SimpleNamespace) -> None:
    recipe, network = described(make, *NETWORKS[2])
    content = export_encoder(network, recipe)
    assert content == export_encoder(network, recipe)
    assert b"site-packages" not in content and b"/features/" not in content
    script = (
        "import sys; from fedmed_edge.features.backbones import build_backbone; "
        "from fedmed_edge.features.encoder_export import export_encoder; "
        "from fedmed_edge.recipe import Recipe; r = Recipe.model_validate_json(sys.argv[1]); "
        "b = build_backbone(r.backbone, kind=r.kind, channels=1, size=r.size, seed=1); "
        "sys.stdout.buffer.write(export_encoder(b, r))"
    )
    again = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, recipe.model_dump_json()],
        capture_output=True,
        check=True,
    )
    assert again.stdout == content and again.stderr == b""


def test_a_wrong_export_is_refused(make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, network = described(make, *NETWORKS[0])

    def spoilt(*arguments: Any) -> bytes:
        model = onnx.load_model_from_string(traced(*arguments))
        weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
        weight.CopyFrom(onnx.numpy_helper.from_array(1.1 * onnx.numpy_helper.to_array(weight), weight.name))
        return bytes(model.SerializeToString())

    traced = encoder_export._traced
    monkeypatch.setattr(encoder_export, "_traced", spoilt)
    # the first convolution feeds a norm that forgets its scale; its successors do not all
    monkeypatch.setattr(encoder_export, "TOLERANCE", 1e-9)
    with pytest.raises(InputError, match=r"`difference` to torch has .*, expected at most 1e-09"):
        export_encoder(network, recipe)


def test_what_cannot_be_traced_is_refused(make: SimpleNamespace) -> None:
    recipe, network = described(make, *NETWORKS[0])

    class Complex(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            return [torch.fft.fft2(image).abs()]

    network.net = Complex()
    with pytest.raises(InputError, match="the backbone cannot be exported to ONNX"):
        export_encoder(network, recipe)
