"""Names of a Qwen decoder and its head: canonical Hugging Face key, path, layout."""

from visor_jax.checkpoints.hf.keys.key_map import LINEAR, KeyRule

_THEIR_LAYER = "language_model.layers.{i}."
_OUR_LAYER = "language_model/layers_{i}/"

QWEN: tuple[KeyRule, ...] = (
    KeyRule(
        "language_model.embed_tokens.weight", "language_model/embed_tokens/embedding"
    ),
    KeyRule(
        _THEIR_LAYER + "{name}_layernorm.weight", _OUR_LAYER + "{name}_layernorm/scale"
    ),
    KeyRule(
        _THEIR_LAYER + "self_attn.{name}_proj.weight",
        _OUR_LAYER + "self_attn/{name}_proj/kernel",
        LINEAR,
    ),
    KeyRule(
        _THEIR_LAYER + "self_attn.{name}_proj.bias",
        _OUR_LAYER + "self_attn/{name}_proj/bias",
    ),
    KeyRule(
        _THEIR_LAYER + "self_attn.{name}_norm.weight",
        _OUR_LAYER + "self_attn/{name}_norm/scale",
    ),
    KeyRule(
        _THEIR_LAYER + "mlp.{name}_proj.weight",
        _OUR_LAYER + "mlp/{name}_proj/kernel",
        LINEAR,
    ),
    KeyRule("language_model.norm.weight", "language_model/norm/scale"),
    KeyRule("lm_head.weight", "lm_head/kernel", LINEAR),
)
