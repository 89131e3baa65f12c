"""Arguments of wrong kinds, and what may become of a call with one of them."""

import itertools

import numpy as np
from hypothesis import strategies as st

STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([10**20, -(10**30), 2**31]),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.sampled_from([np.int64(2), np.float32(1.5), np.array("auto"), np.zeros((2, 3))]),
    st.sampled_from([object(), type, len, ..., 1j, range(3), {1, 2}, np.array([None])]),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda each: (
            st.lists(each, max_size=2)
            | st.dictionaries(st.sampled_from(["role", "content", "type"]), each)
        ),
        max_leaves=4,
    ),
)


def assert_error_is_ours(function, name, strange, /, **given):
    """Asserts that the error, if there is one, is ours."""
    error = None
    try:
        found = function(**given)
        if name in ("stream", "pieces", "answers", "rounds"):
            list(itertools.islice(found, 3))
    except ValueError as caught:
        error = caught
    if error is None:
        return
    # Raised by a check of ours, and not from inside of a library.
    traceback = error.__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    module = traceback.tb_frame.f_globals["__name__"]
    assert module.startswith("visor_jax"), (name, strange, module, error)
    assert len(str(error)) < 1500
