"""What counts as the user's mistake, and what it says."""

import pytest

from visor_jax.runtime.user_error import UserError, as_user_errors


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("rows=0 must be at least 1"), "^rows=0 must be at least 1$"),
        (FileNotFoundError(2, "No such file", "a.json"), r"^a\.json: No such file$"),
        (PermissionError("not allowed"), "^not allowed$"),
        (ValueError(), "^ValueError$"),
    ],
)
def test_what_is_wrong_with_inputs_is_the_users_mistake(error, message):
    with pytest.raises(UserError, match=message) as raised, as_user_errors():
        raise error
    # Whoever looks for the reason finds where it was raised.
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [TypeError("a bug"), ConnectionError("network"), KeyboardInterrupt()]
)
def test_anything_else_stays_what_it_is(error):
    with pytest.raises(type(error)) as raised, as_user_errors():
        raise error
    assert raised.value is error
