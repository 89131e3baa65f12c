"""bfloat16 activations: the same network, with fewer digits."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.tiny import NETWORKS
from tests.tolerances import BFLOAT16


@pytest.mark.parametrize("name", ["visor", "untied", "convolved"])
def test_bfloat16_stays_close_to_float32(name):
    config = NETWORKS[name]
    params, batch = tiny.params_of(config), tiny.random_batch(config)
    gates = tiny.all_on(config)
    wide = tiny.forward_static(params, batch, config=config, gates=gates).logits
    config = config.replace(compute_dtype="bfloat16")
    narrow = tiny.forward_static(params, batch, config=config, gates=gates).logits
    assert narrow.dtype == jnp.float32
    assert np.isfinite(narrow).all()
    size = np.abs(wide).max()
    change = np.asarray(narrow - wide)[batch.text_mask] / size
    np.testing.assert_allclose(change, 0, **BFLOAT16)
    # It did compute in bfloat16.
    assert np.abs(change).max() > 1e-4
