"""The prompt whose answers by transformers are stored beside the golden checkpoint."""

import numpy as np

from tests.data import tiny_llava
from visor_jax.batch import Batch
from visor_jax.data.buckets import Bucket, Buckets
from visor_jax.data.images.anyres import anyres_crops
from visor_jax.data.images.patch_index import anyres_patch_index
from visor_jax.data.prompts.sample import Sample
from visor_jax.data.prompts.token_layout import Layout

TOKENS = (7, 3, 200, tiny_llava.IMAGE, 11, 45, 99, 250, 1, 31)


def sample(image: np.ndarray) -> Sample:
    """Returns random words about an image, (h, w, 3) uint8."""
    settings = tiny_llava.image_settings(side=3)
    index = anyres_patch_index(*image.shape[:2], settings)
    place = TOKENS.index(tiny_llava.IMAGE)
    text = np.delete(np.array(TOKENS, np.int32), place)
    order = np.arange(len(text), dtype=np.int32)
    return Sample(
        crops=anyres_crops(image, settings),
        patch_index=index,
        layout=Layout(
            tokens=text,
            text_positions=order + index.count * (order >= place).astype(np.int32),
            image_positions=place + np.arange(index.count, dtype=np.int32),
            targets=np.zeros_like(text),
            loss_mask=np.zeros(len(text), bool),
            media=(("image", 0),),
        ),
    )


def batch(image: np.ndarray) -> Batch:
    """Returns the one-row batch of the prompt."""
    prompt = sample(image)
    bucket = Bucket(
        crops=prompt.num_crops, image_tokens=prompt.num_image_tokens, text_tokens=16
    )
    settings = tiny_llava.image_settings(side=3)
    return Buckets([bucket], settings, pad_id=0).batch([prompt], bucket)
