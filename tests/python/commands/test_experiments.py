"""What an experiment needs is looked for before it begins."""

import importlib.util

import pytest

from fedmed_edge.commands.experiments import require_packages
from fedmed_edge.errors import InputError


def test_a_package_that_is_missing_is_named_with_the_extras_that_bring_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "monai" else object())
    require_packages("demo", "torch", "onnx", extras="cpu,train")
    with pytest.raises(InputError, match=r"^demo: monai is not installed$") as no:
        require_packages("demo", "torch", "monai", extras="cpu,train")
    assert no.value.hint == 'pip install "fedmed-edge[cpu,train]"'
