"""What transformers makes of projected patches; run as a program, the golden file."""

import numpy as np

from tests.data.pages import packing_cases
from visor_jax.data.images.image_settings import ImageSettings


def hf_model(settings: ImageSettings):
    """Returns a model that is used for its packing alone."""
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionModel,
        Qwen2Config,
        SiglipVisionConfig,
    )

    vision = SiglipVisionConfig(
        hidden_size=4,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=settings.tile_size,
        patch_size=settings.patch_size,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=8,
        hidden_size=4,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    return LlavaOnevisionModel(
        LlavaOnevisionConfig(
            vision_config=vision,
            text_config=text,
            image_grid_pinpoints=[list(point) for point in settings.pinpoints],
        )
    )


def reference() -> dict[str, np.ndarray]:
    """Returns {case: (V, width) packed tokens} of transformers."""
    import torch

    models = {s: hf_model(s) for s in packing_cases.SETTINGS.values()}
    newline = torch.tensor(packing_cases.NEWLINE)
    packed = {}
    for name, (settings, size, patches) in packing_cases.image_cases().items():
        (tokens,), (count,) = models[settings].pack_image_features(
            [torch.tensor(patches)], torch.tensor([size]), newline
        )
        assert len(tokens) == count
        packed[name] = tokens.numpy()
    for name, (settings, patches) in packing_cases.video_cases().items():
        pooled = models[settings].apply_pooling(torch.tensor(patches))
        flat = pooled.reshape(-1, patches.shape[-1])
        packed[name] = torch.cat([flat, newline[None]]).numpy()
    return packed


if __name__ == "__main__":
    packing_cases.GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(packing_cases.GOLDEN, **reference())
