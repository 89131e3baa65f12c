"""Frozen descriptions of the network's parts: numbers only, no module code.

Every size the modules need is here; they take their own part and nothing else. A
`VLMConfig` goes into every checkpoint (`to_dict`, `from_dict`), so that a path alone is
enough to rebuild the network.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from visor_jax.layer_plan import LayerKind, LayerPlan

COMPUTE_DTYPES = ("float32", "bfloat16")
# Standard deviation of new kernels, as in the published configurations. Small on
# purpose: layers start close to the identity, and what a token is and where it stands
# is not drowned by the noise of untrained layers.
INIT_STD = 0.02
# Among `VLMConfig.reading_layers`: the image stream as it enters the decoder.
ENTRY = -1
COMPRESSORS = ("packing", "depthwise")
REMAT_POLICIES = ("none", "gated", "layer")
SCAN_LAYERS = ("auto", "on", "off")

# Fields that came into `DecoderConfig` after networks had been saved without them, as
# those networks have them.
_QWEN2 = {"qkv_bias": True, "qk_norm": False}
# The same of `AdapterConfig`.
_PLAIN_ADAPTER = {"qkv_bias": False, "qk_norm": False}
# The same of `VLMConfig`.
_PLAIN_NETWORK = {"any_crops": False} | dict.fromkeys(
    ("trained_with", "compressor", "projector_convolution")
)


def _check_positive(config: Any, *names: str) -> None:
    wrong = {n: getattr(config, n) for n in names if getattr(config, n) < 1}
    if wrong:
        owner = type(config).__name__
        raise ValueError(f"{owner} needs values of at least 1: {wrong}.")


def _without(known: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields without those that have the known value."""
    return {k: v for k, v in fields.items() if k not in known or v != known[k]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The SigLIP tower. `num_layers` counts the blocks that exist, none is dropped."""

    width: int
    mlp_width: int
    num_layers: int
    num_heads: int
    image_size: int
    patch_size: int
    norm_eps: float = 1e-6
    init_std: float = INIT_STD

    def __post_init__(self) -> None:
        _check_positive(
            self, "width", "mlp_width", "num_layers", "num_heads", "patch_size"
        )
        if self.width % self.num_heads:
            raise ValueError(
                f"VisionConfig: num_heads={self.num_heads} must divide "
                f"width={self.width}."
            )
        if self.image_size < self.patch_size:
            raise ValueError(
                f"VisionConfig: image_size={self.image_size} is below "
                f"patch_size={self.patch_size}."
            )

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads

    @property
    def patches_per_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        return self.patches_per_side**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A Qwen decoder; what its generations differ in are numbers.

    head_dim: width of a head; heads times it need not give `width`. qkv_bias: whether
    queries, keys and values have a bias (Qwen2). qk_norm: whether every head's queries
    and keys are normalised before they are rotated (Qwen3). max_positions: tokens of
    image, text and answer together.
    """

    vocab_size: int
    width: int
    mlp_width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    qkv_bias: bool = True
    qk_norm: bool = False
    rope_theta: float = 1e6
    max_positions: int = 32768
    norm_eps: float = 1e-6
    tie_embeddings: bool = True
    init_std: float = INIT_STD
    embedding_init_std: float = INIT_STD

    def __post_init__(self) -> None:
        _check_positive(
            self,
            *("vocab_size", "width", "mlp_width", "num_heads", "num_kv_heads"),
            *("head_dim", "max_positions"),
        )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"DecoderConfig: num_kv_heads={self.num_kv_heads} must divide "
                f"num_heads={self.num_heads}."
            )
        if self.rope_theta <= 0:
            raise ValueError(
                f"DecoderConfig: rope_theta={self.rope_theta} must be > 0."
            )
        if self.head_dim % 2:
            raise ValueError(
                f"DecoderConfig: head_dim={self.head_dim} must be even for rotary "
                "positions."
            )

    @property
    def heads_width(self) -> int:
        """Width of all query heads together; `width` in most networks."""
        return self.num_heads * self.head_dim

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values; what Qwen2 has is said by leaving it out.

        Digests of networks and of their scores are made of these values, and runs are
        compared by them: those of Qwen2 are what they were before there were others.
        """
        return _without(_QWEN2, dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """The text-to-image adapter of a CROSS layer (attention only, no MLP).

    num_kv_heads: key/value heads; the query heads are the decoder's.
    qkv_bias, qk_norm: as in `DecoderConfig`.
    conv_kernel: taps of the depthwise position convolution over the image sequence.
    """

    num_kv_heads: int
    qkv_bias: bool = False
    qk_norm: bool = False
    conv_kernel: int = 7
    init_std: float = INIT_STD

    def __post_init__(self) -> None:
        _check_positive(self, "num_kv_heads", "conv_kernel")
        if self.conv_kernel % 2 == 0:
            raise ValueError(
                f"AdapterConfig: conv_kernel={self.conv_kernel} must be odd, so that "
                "it is centred."
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values; see `DecoderConfig.to_dict`."""
        return _without(_PLAIN_ADAPTER, dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompressorConfig:
    """Parameters that make one image token of several (`models.vision.compressor`).

    kind: "packing" or "depthwise". size: tokens that go into one.
    """

    kind: str
    size: int

    def __post_init__(self) -> None:
        _check_positive(self, "size")
        if self.kind not in COMPRESSORS:
            raise ValueError(f"kind={self.kind!r} is not one of {COMPRESSORS}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VLMConfig:
    """The whole network.

    image_newline: whether a learned newline token exists (LLaVA-OneVision).
    grid_embedding: whether the projector adds a learned row and column embedding.
    projector_convolution: side of one over each crop's projected patches, or None.
    projector_init_std: standard deviation of the projector's new kernels.
    reading_layers: layers whose image tokens the auxiliary reading loss reads (training
      only); ENTRY for the tokens that enter the first layer; () for none.
    reading_classes: classes of that loss.
    compute_dtype: activations; parameters stay float32 while training.
    remat: what the backward pass computes again: "layer", every decoder layer and tower
      block; "gated", SELF layers: one that is off would still hand zeros back.
    trained_with: the token reduction it was trained with, by its name in the registry.
    compressor: that reduction's own parameters; None if it has none.
    any_crops: whether the network was trained on drawn crops of its images, with order
      as if all were there, and so is right at any look (`visor_jax.look`).
    attention: the kernel of all attention, by its name in `visor_jax.ops.attention`
      (which checks it): "cudnn" (GPUs), "tags", "splash" (TPUs), "plain", "blockwise".
      "auto" chooses by shapes, platform and mesh. The machine's business, not the
      network's: `to_dict` leaves it out, and a checkpoint runs anywhere.
    scan_layers: whether a program with traced gates is a scan over repeated layers, and
      the tower one over its blocks: compiled in a fraction of the time, at the price of
      a copy of the parameters in each call. "on", "off", or "auto": on accelerators.
    """

    vision: VisionConfig
    decoder: DecoderConfig
    adapter: AdapterConfig
    plan: LayerPlan
    image_newline: bool = True
    grid_embedding: bool = False
    projector_convolution: int | None = None
    projector_init_std: float = INIT_STD
    reading_layers: tuple[int, ...] = ()
    reading_classes: int = 10
    compute_dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"
    scan_layers: str = "off"
    trained_with: str | None = None
    compressor: CompressorConfig | None = None
    any_crops: bool = False

    def __post_init__(self) -> None:
        if self.decoder.num_heads % self.adapter.num_kv_heads:
            raise ValueError(
                f"AdapterConfig: num_kv_heads={self.adapter.num_kv_heads} must divide "
                f"the decoder's num_heads={self.decoder.num_heads}."
            )
        if self.compute_dtype not in COMPUTE_DTYPES:
            raise ValueError(
                f"compute_dtype={self.compute_dtype!r} is not one of {COMPUTE_DTYPES}."
            )
        if self.remat not in REMAT_POLICIES:
            raise ValueError(f"remat={self.remat!r} is not one of {REMAT_POLICIES}.")
        side = self.projector_convolution
        if side is not None and (side < 1 or side % 2 == 0):
            why = "must be odd, so that it is centred, and at least 1; None for none"
            raise ValueError(f"projector_convolution={side} {why}.")
        if len(set(self.reading_layers)) != len(self.reading_layers):
            raise ValueError(f"reading_layers {self.reading_layers} repeat a layer.")
        if self.scan_layers not in SCAN_LAYERS:
            raise ValueError(
                f"scan_layers={self.scan_layers!r} is not one of {SCAN_LAYERS}."
            )
        wrong = set(self.reading_layers) - {ENTRY, *self.plan.self_layers}
        if wrong:
            raise ValueError(
                f"reading_layers {sorted(wrong)} are not SELF layers of the plan "
                f"{list(self.plan.self_layers)}."
            )

    def replace(self, **changes: Any) -> "VLMConfig":
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values from which `from_dict` rebuilds the config.

        All but `attention` and `scan_layers`, which have their defaults again; what
        `_PLAIN_NETWORK` names only where it is there: networks without stay the same.
        """
        fields = dataclasses.asdict(self)
        fields["decoder"] = self.decoder.to_dict()
        fields["adapter"] = self.adapter.to_dict()
        fields["plan"] = [kind.value for kind in self.plan.kinds]
        fields["reading_layers"] = list(self.reading_layers)
        del fields["attention"], fields["scan_layers"]
        return _without(_PLAIN_NETWORK, fields)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "VLMConfig":
        """Returns the config that `to_dict` described. Raises ValueError otherwise."""
        fields = dict(fields)
        try:
            if fields.get("compressor") is not None:
                fields["compressor"] = CompressorConfig(**fields["compressor"])
            return cls(
                vision=VisionConfig(**fields.pop("vision")),
                decoder=DecoderConfig(**fields.pop("decoder")),
                adapter=AdapterConfig(**fields.pop("adapter")),
                plan=LayerPlan(tuple(LayerKind(k) for k in fields.pop("plan"))),
                reading_layers=tuple(fields.pop("reading_layers")),
                **fields,
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"This is not a VLMConfig: {error}.") from error
