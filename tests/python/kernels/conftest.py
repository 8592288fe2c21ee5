"""What the tests of the kernels share."""

import re
from collections.abc import Callable, Mapping

import pytest


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
