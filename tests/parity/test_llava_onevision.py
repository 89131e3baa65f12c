"""Tiny random models of Hugging Face transformers, weights and all, run here.

The weights are mapped by name inside this file, so that a mistake in the package's own
checkpoint reader cannot hide one in the network.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tolerances import PARITY
from visor_jax.batch import Batch
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.config import (
    AdapterConfig,
    DecoderConfig,
    VisionConfig,
    VLMConfig,
)
from visor_jax.models.decoder.decoder import DecoderState
from visor_jax.models.vision.siglip import VisionTower
from visor_jax.models.vlm import VLM
from visor_jax.ops.masks import TokenTags

pytestmark = pytest.mark.parity

IMAGE_TOKEN = 300
SIDE, PATCH = 56, 14
PER_SIDE = SIDE // PATCH
GRID = 2


def vision_config(**changes):
    from transformers import SiglipVisionConfig

    return SiglipVisionConfig(
        **{
            **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
            **{"num_attention_heads": 4, "image_size": SIDE, "patch_size": PATCH},
            **{"vision_use_head": False, "attn_implementation": "eager", **changes},
        }
    )


_SIZES = {
    **{"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96},
    **{"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2},
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "attn_implementation": "eager",
}


def text_config(tied):
    from transformers import Qwen2Config

    return Qwen2Config(**_SIZES, tie_word_embeddings=tied)


def qwen3_config(tied):
    """Returns heads that together are wider than the stream, as in the small Qwen3."""
    from transformers import Qwen3Config

    return Qwen3Config(**{**_SIZES, "head_dim": 24, "tie_word_embeddings": tied})


def our_config(*, tied=True, side=SIDE):
    return VLMConfig(
        vision=VisionConfig(
            width=32,
            mlp_width=48,
            num_layers=2,
            num_heads=4,
            image_size=side,
            patch_size=PATCH,
        ),
        decoder=DecoderConfig(
            vocab_size=320,
            width=64,
            mlp_width=96,
            num_heads=4,
            num_kv_heads=2,
            head_dim=16,
            tie_embeddings=tied,
        ),
        adapter=AdapterConfig(num_kv_heads=4),
        plan=LayerPlan.dense(3),
    )


def randomised(model):
    """Returns the model with noise everywhere: biases start at 0 and norms at 1."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            size = 0.3 if parameter.ndim == 1 else 0.05
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(size * noise)
    return model.eval()


def mapped(model, *, drop=()):
    """Returns the torch parameters as a nested dict of Flax names and layouts."""
    tree = {}
    for name, tensor in model.state_dict().items():
        if name in drop:
            continue
        parts = name.replace("layers.", "layers_").split(".")
        parts = [part for part in parts if part not in ("model", "vision_model")]
        value, kind = tensor.numpy(), parts[-1]
        if kind == "weight":
            parts[-1], value = _weight(parts[-2], value)
        branch = tree
        for part in parts[:-1]:
            branch = branch.setdefault(part, {})
        branch[parts[-1]] = jnp.asarray(value)
    return tree


def _weight(module, value):
    if value.ndim == 1:
        return "scale", value
    if module in ("embed_tokens", "position_embedding"):
        return "embedding", value
    if value.ndim == 4:
        return "kernel", value.transpose(2, 3, 1, 0)
    return "kernel", value.T


@pytest.mark.parametrize("side", [SIDE, SIDE + 5])
def test_vision_features(side):
    import torch
    from transformers import SiglipVisionModel

    model = randomised(SiglipVisionModel(vision_config(image_size=side)))
    pixels = np.random.default_rng(0).normal(size=(3, side, side, 3))
    pixels = pixels.astype(np.float32)
    with torch.no_grad():
        reference = model(
            torch.tensor(pixels).permute(0, 3, 1, 2), output_hidden_states=True
        ).hidden_states[-1]
    tower = VisionTower(our_config(side=side).vision, jnp.dtype("float32"))
    features = jax.jit(tower.apply)({"params": mapped(model)}, pixels)
    np.testing.assert_allclose(features, reference.numpy(), **PARITY)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("image_length", "padded"), [(1, 4), (5, 0)])
@pytest.mark.parametrize("generation", ["Qwen2", "Qwen3"])
def test_decoder_on_embeddings(tied, image_length, padded, generation):
    """The first tokens stand in for an image; the second row is padded on the left."""
    import torch
    from transformers import Qwen2ForCausalLM, Qwen3ForCausalLM

    if generation == "Qwen2":
        model = randomised(Qwen2ForCausalLM(text_config(tied)))
    else:
        model = randomised(Qwen3ForCausalLM(qwen3_config(tied)))
    length = 12
    hidden = np.random.default_rng(1).normal(size=(2, length, 64)).astype(np.float32)
    mask = np.ones((2, length), bool)
    mask[1, :padded] = False
    with torch.no_grad():
        reference = model(
            inputs_embeds=torch.tensor(hidden),
            attention_mask=torch.tensor(mask.astype(np.int64)),
        ).logits.numpy()
    decoder = mapped(model, drop=["lm_head.weight"])
    params = {"language_model": decoder}
    if not tied:
        params["lm_head"] = {"kernel": jnp.asarray(model.lm_head.weight.detach().T)}
    # The reference numbers padding too; only distances count.
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0).astype(np.int32)
    config = our_config(tied=tied).replace(image_newline=False)
    if generation == "Qwen3":
        qwen3 = {"head_dim": 24, "qkv_bias": False, "qk_norm": True}
        config = config.replace(decoder=dataclasses.replace(config.decoder, **qwen3))

    def run(model, hidden, positions, mask):
        def part(slots):
            tags = TokenTags(
                positions[:, slots], jnp.zeros_like(positions[:, slots]), mask[:, slots]
            )
            return model.language_model.stream(hidden[:, slots], tags)

        image, text = part(slice(0, image_length)), part(slice(image_length, None))
        done, _ = model.run(DecoderState(text, image), (True,) * 3)
        return model.logits(done.text)

    apply = jax.jit(
        lambda p, *args: VLM(config).apply({"params": p}, *args, method=run)
    )
    logits = np.asarray(apply(params, hidden, positions, mask))
    valid = mask[:, image_length:]
    expected = reference[:, image_length:]
    np.testing.assert_allclose(logits[valid], expected[valid], **PARITY)


def grid_index(rows):
    """Returns the patches of the base crop, then the grid's rows, each with a newline.

    Crop 0 is the whole image; crops 1.. are the tiles, row by row.
    """
    newline = (1 + GRID * GRID) * PER_SIDE**2
    index = list(range(PER_SIDE**2))
    for row in rows:
        for column in range(GRID * PER_SIDE):
            tile = 1 + row // PER_SIDE * GRID + column // PER_SIDE
            place = row % PER_SIDE * PER_SIDE + column % PER_SIDE
            index.append(tile * PER_SIDE**2 + place)
        index.append(newline)
    return index


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("height", "rows"),
    # The second image is wide: the padding above and below it is cut off again.
    [(112, range(8)), (70, range(1, 7))],
)
def test_logits_for_one_image_between_text(tied, height, rows):
    import torch
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
    )

    pinpoints = [[SIDE * i, SIDE * j] for i in range(1, 4) for j in range(1, 4)]
    model = randomised(
        LlavaOnevisionForConditionalGeneration(
            LlavaOnevisionConfig(
                vision_config=vision_config(),
                text_config=text_config(tied),
                image_token_index=IMAGE_TOKEN,
                video_token_index=IMAGE_TOKEN + 1,
                image_grid_pinpoints=pinpoints,
                tie_word_embeddings=tied,
                attn_implementation="eager",
            )
        )
    )
    rng = np.random.default_rng(2)
    crops = 1 + GRID * GRID
    pixels = rng.normal(size=(1, crops, SIDE, SIDE, 3)).astype(np.float32)
    before, after = rng.integers(0, 290, 5), rng.integers(0, 290, 7)
    index = np.array([grid_index(rows)], np.int32)
    image = np.full(index.shape[1], IMAGE_TOKEN)
    ids = np.concatenate([before, image, after])[None]
    with torch.no_grad():
        reference = model(
            input_ids=torch.tensor(ids),
            pixel_values=torch.tensor(pixels).permute(0, 1, 4, 2, 3),
            image_sizes=torch.tensor([[height, 112]]),
            attention_mask=torch.ones(ids.shape, dtype=torch.long),
        ).logits.numpy()
    positions = np.arange(ids.shape[1], dtype=np.int32)[None]
    is_image = ids == IMAGE_TOKEN
    tokens = ids[~is_image][None].astype(np.int32)
    batch = Batch(
        pixels=pixels,
        image_token_index=index,
        image_positions=positions[is_image][None],
        image_mask=np.ones(index.shape, bool),
        tokens=tokens,
        text_positions=positions[~is_image][None],
        text_segments=np.zeros_like(tokens),
        text_mask=np.ones(tokens.shape, bool),
        targets=tokens,
        loss_mask=np.ones(tokens.shape, bool),
    )
    config = our_config(tied=tied)
    params = mapped(model, drop=["lm_head.weight"] if tied else [])
    apply = jax.jit(lambda p, b: VLM(config).apply({"params": p}, b, (True,) * 3))
    logits = np.asarray(apply(params, batch).logits)
    np.testing.assert_allclose(logits[0], reference[~is_image], **PARITY)
