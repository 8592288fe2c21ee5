"""What the tests of the kernels share."""

import os
import re
from collections.abc import Callable, Mapping
from typing import NoReturn

import pytest


@pytest.fixture
def lacks() -> Callable[[str], NoReturn]:
    """Skip a test for want of something; but fail where `CI` is set, for there nothing is wanting."""

    def skip(what: str) -> NoReturn:
        if os.environ.get("CI"):
            pytest.fail(f"this machine lacks {what}")
        pytest.skip(f"this machine lacks {what}")

    return skip


@pytest.fixture
def expect_refusal() -> Callable[[Callable[..., object], Mapping[str, object], str, object, str], None]:
    """A good call of a kernel is taken, and refused once one argument of it is changed."""

    def expect(
        kernel: Callable[..., object], good: Mapping[str, object], argument: str, wrong: object, message: str
    ) -> None:
        kernel(**good)
        with pytest.raises(ValueError, match=f"^{kernel.__name__}: `{argument}` {re.escape(message)}$"):
            kernel(**{**good, argument: wrong})

    return expect
