"""What a call says when it refuses what the user asked for."""

from collections.abc import Callable

import pytest

from mosld.common.errors import UserError


def refusal(call: Callable[..., object], *arguments: object, **keys: object) -> list[str]:
    """The messages of the `UserError` that a call raises."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **keys)
    return caught.value.messages
