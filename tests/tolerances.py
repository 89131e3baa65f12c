"""The only place with tolerances: keyword arguments of `np.testing.assert_allclose`.

A test picks the entry that says why two results may differ. None is loosened to make a
test pass; a test that needs more says so here.
"""

# The same operations in the same order.
EXACT = {"rtol": 0.0, "atol": 0.0}

# The same mathematics in float32, summed in another order (concatenation, packing,
# another program around the same layer).
REORDERED = {"rtol": 1e-5, "atol": 1e-5}

# Gradients of a loss, where two programs sum in another order.
GRADIENT = {"rtol": 1e-4, "atol": 1e-5}

# float32 network against a float64 reference, a few layers deep.
REFERENCE = {"rtol": 1e-5, "atol": 2e-5}

# float32 network against PyTorch in float32.
PARITY = {"rtol": 1e-5, "atol": 1e-5}

# Pixels in -1..1 that two libraries resize: one of 256 levels, and its rounding.
ONE_LEVEL = {"rtol": 0.0, "atol": 2 / 255 + 1e-6}

# bfloat16 activations (8 bits of mantissa) against float32; compared to the size of
# the largest value.
BFLOAT16 = {"rtol": 0.0, "atol": 0.05}

# Rotary angles of positions in the hundreds: float32 leaves 5e-5 of an angle of 500.
ROTATED = {"rtol": 0.0, "atol": 3e-4}

# Central differences of a float32 network: their own error and its rounding over the
# step.
FINITE_DIFFERENCE = {"rtol": 1e-2, "atol": 2e-3}

# What descent finds against the optimum in closed form.
FITTED = {"rtol": 0.0, "atol": 0.01}

# How many standard errors the mean of random samples may be off.
FOUR_ERRORS = 4.0
