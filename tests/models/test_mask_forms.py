"""A network that is told the forms of its masks: nothing changes but the kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.tolerances import REORDERED
from visor_jax.models.vision.image_tokens import ImageTokens
from visor_jax.models.vlm import VLM
from visor_jax.ops import attention
from visor_jax.ops.kernels.cudnn import CudnnKernel, cudnn_attend
from visor_jax.ops.kernels.kernel import joined
from visor_jax.ops.masks import MaskForm, TokenTags

CONFIG = tiny.VISOR
IMAGE, TEXT, AROUND = 9, 7, 3


class OnACpu(CudnnKernel):
    """Takes what cuDNN takes, of any number of queries; computed by the compiler."""

    def __init__(self):
        self.forms = []

    def refuses(self, query, parts, platform):
        masked = [part for part in parts if part.tags is not None]
        known = len(parts) == 1 and parts[0].form is not MaskForm.TAGS
        return "tags" if masked and not known else None

    def __call__(self, query, parts, query_tags):
        self.forms.append(parts[0].form if parts[0].tags is not None else None)
        return cudnn_attend(query, joined(parts), implementation="xla")


def streams(rng):
    """Returns text around one image, in any order in memory, with invalid tokens."""
    valid = rng.random((2, IMAGE + TEXT)) < 0.8
    order = np.tile(np.arange(IMAGE + TEXT), (2, 1))
    is_image = (order >= AROUND) & (order < AROUND + IMAGE)

    def tags(of, form):
        index = rng.permutation(np.flatnonzero(of[0]))
        taken = [jnp.asarray(x[:, index]) for x in (order, 0 * order, valid)]
        return TokenTags(*taken, form)

    return tags(is_image, MaskForm.WHOLE), tags(~is_image, MaskForm.CAUSAL)


def logits(params, image, text, gates):
    rng = np.random.default_rng(1)
    hidden = rng.normal(size=(2, IMAGE, CONFIG.decoder.width))
    hidden = jnp.asarray(hidden, jnp.float32)
    tokens = jnp.asarray(rng.integers(0, CONFIG.decoder.vocab_size, (2, TEXT)))

    def of_model(model):
        begun = model.begin(tokens, text, ImageTokens(hidden), image, remember=True)
        done, _ = model.run(begun, gates)
        assert done.cache().text.form is MaskForm.TAGS
        return model.logits(done.text)

    return jax.jit(lambda p: VLM(CONFIG).apply(p, method=of_model))(params)


@pytest.mark.parametrize("seed", range(3))
def test_kernels_that_read_forms_give_the_logits_of_those_that_read_tags(
    monkeypatch, seed
):
    image, text = streams(np.random.default_rng(seed))
    params, gates = tiny.params_of(CONFIG), tiny.all_on(CONFIG)
    told = image, text
    untold = (tags.replace(form=MaskForm.TAGS) for tags in told)
    expected = logits(params, *untold, gates)
    # Where kernels read tags, forms change no bit.
    np.testing.assert_array_equal(logits(params, *told, gates), expected)
    kernel = OnACpu()
    monkeypatch.setitem(attention.KERNELS, "cudnn", kernel)
    found = logits(params, *told, gates)
    assert {MaskForm.CAUSAL, MaskForm.WHOLE} <= set(kernel.forms)
    valid = np.asarray(text.valid)
    np.testing.assert_allclose(found[valid], expected[valid], **REORDERED)


def test_a_form_that_is_not_true_is_noticed(monkeypatch):
    """The other way round, so that the test above can fail: packed, yet called one."""
    image, text = streams(np.random.default_rng(0))
    text = text.replace(segments=jnp.asarray([[1, 2, 1, 2, 1, 2, 1]] * 2))
    params, gates = tiny.params_of(CONFIG), tiny.all_on(CONFIG)
    expected = logits(params, image, text.replace(form=MaskForm.TAGS), gates)
    monkeypatch.setitem(attention.KERNELS, "cudnn", OnACpu())
    found = logits(params, image, text, gates)
    valid = np.asarray(text.valid)
    assert not np.allclose(found[valid], expected[valid], **REORDERED)
