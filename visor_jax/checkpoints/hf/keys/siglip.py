"""Names of the SigLIP tower: canonical Hugging Face key, path here, layout."""

from visor_jax.checkpoints.hf.keys.key_map import CONV, LINEAR, KeyRule

_THEIRS, _OURS = "vision_tower.", "vision_tower/"
_THEIR_LAYER, _OUR_LAYER = "encoder.layers.{i}.", "encoder/layers_{i}/"

SIGLIP: tuple[KeyRule, ...] = tuple(
    KeyRule(_THEIRS + theirs, _OURS + ours, *transform)
    for theirs, ours, *transform in (
        (
            "embeddings.patch_embedding.weight",
            "embeddings/patch_embedding/kernel",
            CONV,
        ),
        ("embeddings.patch_embedding.bias", "embeddings/patch_embedding/bias"),
        (
            "embeddings.position_embedding.weight",
            "embeddings/position_embedding/embedding",
        ),
        (
            _THEIR_LAYER + "layer_norm{number}.weight",
            _OUR_LAYER + "layer_norm{number}/scale",
        ),
        (
            _THEIR_LAYER + "layer_norm{number}.bias",
            _OUR_LAYER + "layer_norm{number}/bias",
        ),
        (
            _THEIR_LAYER + "self_attn.{name}_proj.weight",
            _OUR_LAYER + "self_attn/{name}_proj/kernel",
            LINEAR,
        ),
        (
            _THEIR_LAYER + "self_attn.{name}_proj.bias",
            _OUR_LAYER + "self_attn/{name}_proj/bias",
        ),
        (_THEIR_LAYER + "mlp.{name}.weight", _OUR_LAYER + "mlp/{name}/kernel", LINEAR),
        (_THEIR_LAYER + "mlp.{name}.bias", _OUR_LAYER + "mlp/{name}/bias"),
        ("post_layernorm.weight", "post_layernorm/scale"),
        ("post_layernorm.bias", "post_layernorm/bias"),
    )
)
