import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save

from fedmed_edge.errors import InputError
from fedmed_edge.model.global_model import GlobalModel, parse_model, read_model
from fedmed_edge.model.posterior import softmax
from fedmed_edge.model.rebuild import rebuild


@pytest.fixture
def model(made: SimpleNamespace) -> GlobalModel:
    recipe = made.recipe(4)
    sites = {name: made.random(seed) for seed, name in enumerate("ab")}
    return rebuild(made.contribute(sites, recipe), recipe)


def test_linear_form_gives_the_probabilities(model: GlobalModel, made: SimpleNamespace) -> None:
    rows = made.random(5).rows
    weight, bias = model.linear()
    assert weight.shape == (12, 4) and bias.shape == (4,)
    wanted = model.posterior.probabilities(rows @ model.head)
    np.testing.assert_allclose(softmax(rows @ weight + bias), wanted, atol=1e-12)
    got = model.probabilities(rows.astype(np.float32))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_file_round_trip(model: GlobalModel, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(model.content)
    again = read_model(tmp_path / "m.safetensors")
    assert again.content == model.content and again.digest == model.digest
    del again.__dict__["content"]
    assert again.content == model.content
    np.testing.assert_array_equal(again.head, model.head)
    assert again.sites == ("a", "b") and again.recipe == model.recipe
    assert again.posterior.temperature == model.posterior.temperature


def test_file_holds_no_time_path_or_counter(model: GlobalModel) -> None:
    header = json.loads(model.content[8 : 8 + int.from_bytes(model.content[:8], "little")])
    fields = json.loads(header["__metadata__"]["fedmed_model"])
    assert set(fields) == {
        "format_version", "recipe", "generation", "ridge", "temperature", "known_threshold", "sites",
        "contributions", "site_weights", "refined_for", "kept", "reason", "figures",
    }  # fmt: skip
    assert "sequence" not in header["__metadata__"]["fedmed_model"]


def test_rows_of_another_width_are_refused(model: GlobalModel) -> None:
    with pytest.raises(InputError, match=r"`rows` has shape \(2, 5\), expected \(N, 12\)"):
        model.probabilities(np.ones((2, 5)))


def test_bad_files_are_refused(model: GlobalModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: no such file"):
        read_model(tmp_path / "none")
    for content in (b"", model.content[:5], model.content[:100], model.content[:-1]):
        with pytest.raises(InputError, match="m: cut off: "):
            parse_model(content, "m")
    with pytest.raises(InputError, match="m: not a model file"):
        parse_model(save({"head": np.ones(3)}), "m")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("head", np.ones((12, 3)), r"`head` has shape \(12, 3\), expected \(12, 4\)"),
        ("head", np.ones(4), r"`head` has shape \(4,\), expected \(4, 4\)"),
        ("priors", np.ones(3), r"`priors` has shape \(3,\), expected \(4,\)"),
        (
            "posterior_bias",
            np.full(4, np.nan),
            "`posterior_bias` has float64 values, expected finite float64",
        ),
        ("posterior_weight", np.ones((4, 4), np.float32), "`posterior_weight` has float32 values"),
        ("priors", None, "has no tensor `priors`"),
    ],
)
def test_bad_tensors_are_refused(
    model: GlobalModel, name: str, value: np.ndarray | None, message: str
) -> None:
    header = json.loads(model.content[8 : 8 + int.from_bytes(model.content[:8], "little")])
    tensors = {
        "head": model.head,
        "posterior_weight": model.posterior.weight,
        "posterior_bias": model.posterior.bias,
        "priors": model.posterior.priors,
    }
    changed = {key: array for key, array in (tensors | {name: value}).items() if array is not None}
    with pytest.raises(InputError, match=message):
        parse_model(save(changed, metadata=header["__metadata__"]), "m")
