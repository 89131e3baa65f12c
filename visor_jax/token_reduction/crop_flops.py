"""Matrix products of what methods do with crops: formulas beside the functions.

One multiply-add is 2 FLOPs, as in `visor_jax.flops`; what the program executes is
counted, blocks that are filled up included. Per image, all of its crops.

    received attention   every query with every key, and the mean over queries
    greedy choice        a chosen patch with all others, one after the other
    all pairs            every patch with every other one
    merging              patches with those that stay, and their means
    shrinking            rows of pixels with their weights, then columns
"""

from visor_jax.models.config import VisionConfig
from visor_jax.token_reduction.diversity import BLOCK as PAIRS_BLOCK
from visor_jax.token_reduction.received_attention import BLOCK


def query_key(vision: VisionConfig, *, layers: int, crops: int) -> int:
    """Returns the FLOPs of so many layers' queries and keys, made once more."""
    return layers * crops * 4 * vision.num_patches * vision.width**2


def received(vision: VisionConfig, *, crops: int) -> int:
    """Returns the FLOPs of `received_attention`, heads joined or not."""
    patches = vision.num_patches
    queries = _filled(patches, BLOCK)
    return crops * 2 * queries * patches * (vision.width + 1)


def greedy(*, chosen: int, patches: int, width: int) -> int:
    """Returns the FLOPs of `select.one_by_one` with products of vectors.

    chosen: the most that are. patches: that are chosen from.
    """
    return 2 * max(chosen - 1, 0) * patches * width


def all_pairs(*, patches: int, width: int) -> int:
    """Returns the FLOPs of `diversity.over_pairs` of products of vectors."""
    return 2 * _filled(patches, PAIRS_BLOCK) * patches * width


def pairs(*, ones: int, others: int, width: int) -> int:
    """Returns the FLOPs of a product of each of `ones` with each of `others`."""
    return 2 * ones * others * width


def shrinking(vision: VisionConfig, *, side: int, crops: int) -> int:
    """Returns the FLOPs of resizing crops to `side` patches per side, in colour."""
    size, new = vision.image_size, side * vision.patch_size
    return crops * 3 * 2 * new * size * (size + new)


def _filled(count: int, block: int) -> int:
    block = min(block, count)
    return -(-count // block) * block
