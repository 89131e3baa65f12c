"""The one glossary of array axes: letters for shapes, logical names for sharding.

Shapes in signatures, docstrings and einsums use these letters and no others, each for
one thing:

    B  samples in a batch          T  text tokens           D  decoder width
    C  image crops                 V  image tokens          F  MLP width
    P  patches of one crop         Q  queries (any stream)  N  query heads
    S  SELF layers of the plan     M  keys (any stream)     K  key/value heads
    L  decoder layers              W  vocabulary            G  N / K: heads of a group
    E  vision tower width          U  tokens of an answer   H  width of one head
    R  prompts of one row          X  prompts of all rows   Z  end tokens
    A  supervised tokens of a row

Letters together are a product: NH is all query heads side by side. Names in small
letters (h, w of pixels, n, classes, taps) are local: the docstring says what they are.

Logical axis names say what a dimension means; `visor_jax.sharding` alone decides which
mesh axis, if any, each of them is split over.
"""

BATCH = "batch"
# The samples of a batch while each device looks up its own columns of the embedding.
LOOKUP_BATCH = "lookup_batch"
EMBED = "embed"
MLP = "mlp"
HEADS = "heads"
KV_HEADS = "kv_heads"
VOCAB = "vocab"
VISION_EMBED = "vision_embed"
# A dimension that is never split: norms, biases of width one head, kernels' taps.
UNSPLIT = None

LOGICAL_AXES = (
    *(BATCH, LOOKUP_BATCH, EMBED, VISION_EMBED),
    *(MLP, HEADS, KV_HEADS, VOCAB),
)
