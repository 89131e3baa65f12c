"""The cache: decoding against it equals the full forward pass; what it holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import passes, tiny, tolerances
from tests.inference.prompts import extended, left_padded, prompts
from visor_jax.budget import Budget
from visor_jax.inference.generation.prefill import prefill
from visor_jax.layer_plan import LayerKind
from visor_jax.models.vlm import VLM
from visor_jax.ops.masks import TokenTags, last_valid

NEW, TOGETHER = 4, 2
CASES = [
    (name, budget)
    for name, config in tiny.NETWORKS.items()
    for budget in tiny.every_budget(config)
] + [
    ("visor", Budget((1,), (3,))),
    ("visor", Budget((3,), (1,))),
    ("dense", Budget.reading(tiny.NETWORKS["dense"].plan)),
]
# Other numbers of heads are other shapes: minutes of compilation, nothing new to see.
EQUALITY = [case for case in CASES if case[0] != "grouped"]


def _ids(cases):
    return [f"{name}-{budget.name}" for name, budget in cases]


def _both_paddings(config):
    """Returns prompts followed by NEW tokens; half of the rows are left-padded."""
    batch = prompts(config)
    rng = np.random.default_rng(3)
    new = rng.integers(0, config.decoder.vocab_size, (batch.size, NEW), np.int32)
    halves = extended(batch, new), extended(left_padded(batch), new)
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *halves)


def _read_stepwise(config, params, batch, gates):
    """Returns the cache after the prompt, that after all, and the logits of all tokens.

    The prompt fed first has the new tokens' slots as padding, so that its operations
    are those of the full forward pass; the new tokens follow two at a time.
    """
    model, slots = VLM(config), batch.tokens.shape[1]
    prompt = batch.replace(text_mask=batch.text_mask.at[:, -NEW:].set(False))
    every = np.broadcast_to(np.arange(slots, dtype=np.int32), prompt.tokens.shape)
    every = jnp.asarray(every)
    logits, first = model.apply(params, prompt, gates, every, method=passes.prefill)
    first = cache = first.with_capacity(slots + NEW)
    found = [logits[:, :-NEW]]
    for start in range(slots - NEW, slots, TOGETHER):
        at = slice(start, start + TOGETHER)
        tags = TokenTags(
            order=batch.text_positions[:, at],
            segments=batch.text_segments[:, at],
            valid=batch.text_mask[:, at],
        )
        tokens = batch.tokens[:, at]
        logits, cache = model.apply(
            params, tokens, tags, cache, gates, method=VLM.decode
        )
        found.append(logits)
    return first, cache, np.concatenate(found, axis=1)


@pytest.mark.parametrize(("name", "budget"), EQUALITY, ids=_ids(EQUALITY))
def test_prefill_and_decode_equal_the_full_forward_pass(name, budget):
    config = tiny.NETWORKS[name]
    params, gates = tiny.params_of(config), budget.gates(config.plan)
    batch = _both_paddings(config)
    # Not compiled as a whole: operations are shared by all cases, programs are not.
    expected = np.asarray(VLM(config).apply(params, batch, gates).logits)
    first, last, found = _read_stepwise(config, params, batch, gates)
    valid = np.asarray(batch.text_mask)
    np.testing.assert_allclose(found[valid], expected[valid], **tolerances.REORDERED)
    assert last.length == first.length + NEW
    _check_contents(first, config, budget, batch, NEW)
    for before, after in zip(first.layers, last.layers, strict=True):
        # What is cached of the image is written once.
        pairs = map(jax.tree.leaves, (before.image, after.image))
        for old, new in zip(*pairs, strict=True):
            np.testing.assert_array_equal(old, new)


def _check_contents(cache, config, budget, batch, spare):
    """Asserts that every layer holds what its kind and the budget need, and no more."""
    plan = config.plan
    on = {*plan.cross_layers, *plan.read_layers}
    on |= {*budget.self_layers, *budget.read_layers}
    for index, layer in enumerate(cache.layers):
        assert (layer.image is not None) == (index in on)
    assert cache.num_bytes() == _expected_bytes(config, budget, batch, spare)


def _expected_bytes(config, budget, batch, spare):
    """Returns 2 * B * H * 4 bytes times (heads * tokens), summed over the layers."""
    d, plan = config.decoder, config.plan
    text = (batch.tokens.shape[1] + spare) * plan.num_layers * d.num_kv_heads
    held = len(plan.cross_layers) * config.adapter.num_kv_heads
    seeing = (budget.self_layers, budget.read_layers, plan.read_layers)
    held += sum(map(len, seeing)) * d.num_kv_heads
    tokens = text + held * batch.image_mask.shape[1]
    return 2 * batch.size * d.head_dim * 4 * tokens


def test_every_layer_kind_is_among_the_networks():
    kinds = {k for c in tiny.NETWORKS.values() for k in c.plan.kinds}
    assert kinds == set(LayerKind)


def test_prefill_gives_the_logits_and_tags_after_each_last_valid_token():
    config, budget = tiny.VISOR, Budget.all(tiny.VISOR.plan)
    batch, params = _both_paddings(config), tiny.params_of(tiny.VISOR)
    batch = batch.replace(text_mask=batch.text_mask.at[:, -NEW:].set(False))
    found = prefill(VLM(config), params["params"], batch, budget, spare=3)
    gates = budget.gates(config.plan)
    whole = VLM(config).apply(params, batch, gates).logits
    for row, valid in enumerate(np.asarray(batch.text_mask)):
        last = np.flatnonzero(valid)[-1]
        np.testing.assert_allclose(
            found.logits[row], whole[row, last], **tolerances.REORDERED
        )
        assert found.ends.order[row] == batch.text_positions[row, last] + 1
        assert found.ends.segments[row] == batch.text_segments[row, last]
    assert found.cache.text.valid.shape[1] == batch.tokens.shape[1] + 3
    assert not np.asarray(found.cache.text.valid)[:, -3:].any()


def test_last_valid_token_is_the_drawn_example():
    valid = jnp.array([[1, 1, 1, 0], [0, 0, 1, 1]], bool)
    positions = jnp.array([[2, 3, 4, 0], [0, 0, 2, 3]])
    tags = TokenTags(positions, jnp.zeros_like(positions), valid)
    assert last_valid(tags).tolist() == [2, 3]


@pytest.mark.parametrize("budget", [Budget.none(), Budget((1,))], ids=str)
def test_cache_of_shared_heads_holds_what_the_budget_needs(budget):
    config, spare = tiny.NETWORKS["grouped"], 4
    batch, params = prompts(config), tiny.params_of(config)["params"]
    cache = _abstract_cache(config, params, batch, budget, spare)
    _check_contents(cache, config, budget, batch, spare)


def _abstract_cache(config, params, batch, budget, spare):
    """Returns the traced cache; a struct of shapes would fail the shape checks."""
    caches = []

    def run(params, batch):
        caches.append(prefill(VLM(config), params, batch, budget, spare=spare).cache)

    jax.eval_shape(run, params, batch)
    return caches[0]


def test_bfloat16_cache_takes_half():
    config = tiny.VISOR.replace(compute_dtype="bfloat16")
    batch, budget = prompts(config), Budget.all(config.plan)
    params = tiny.params_of(tiny.VISOR)["params"]
    cache = _abstract_cache(config, params, batch, budget, 0)
    assert 2 * cache.num_bytes() == _expected_bytes(config, budget, batch, 0)


@pytest.mark.parametrize("decoding", [False, True])
def test_traced_gates_are_refused(decoding):
    config = tiny.VISOR
    model, params = VLM(config), tiny.params_of(config)

    def run(batch, gates):
        if not decoding:
            return model.apply(params, batch, gates, method=passes.prefill)[0]
        all_on = tiny.all_on(config)
        _, cache = model.apply(params, batch, all_on, method=passes.prefill)
        tags = TokenTags(batch.text_positions, batch.text_segments, batch.text_mask)
        arguments = (batch.tokens, tags, cache, gates)
        return model.apply(params, *arguments, method=VLM.decode)[0]

    message = r"static gates .* Group samples by budget"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(run, prompts(config), jnp.array([True, False]))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda b: run(b, jnp.array([True, False])), prompts(config))


def test_budget_of_another_plan_is_refused():
    config = tiny.VISOR
    params = tiny.params_of(config)["params"]
    with pytest.raises(ValueError, match=r"SELF layers of this model are \[1, 3\]"):
        prefill(VLM(config), params, prompts(config), Budget((2,)))
    with pytest.raises(ValueError, match="spare=-1"):
        prefill(VLM(config), params, prompts(config), Budget(()), spare=-1)
