"""Passes through the network that several tests need; each runs inside `apply`."""

from visor_jax.models.vlm import begin_batch
from visor_jax.ops.masks import last_valid


def streams(model, batch):
    """Returns the text and the image stream before the first layer."""
    begun = begin_batch(model, batch)
    return begun.text, begun.image


def prefill(model, batch, gates, indices=None):
    """Returns (logits, cache); logits at each row's last token unless told where."""
    done, _ = model.run(begin_batch(model, batch, remember=True), gates)
    if indices is None:
        indices = last_valid(done.text.tags)[:, None]
    return model.logits(done.text, indices), done.cache()


def trunk(model, batch):
    """Returns the state after the layers that all budgets share, with its caches."""
    begun = begin_batch(model, batch, remember=True)
    return model.run(begun, None, stop=model.config.plan.trunk_length)[0]


def rest_at(model, state, gates, rows, last, image_keys=None):
    """Returns logits at pairs of row and index, and the cache, from a trunk on."""
    start = model.config.plan.trunk_length
    done, _ = model.run(state, gates, start=start, image_keys=image_keys)
    return model.logits(done.text, last, rows), done.cache()
