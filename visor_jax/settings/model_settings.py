"""Which network to train: a named variant with what a run changes of it."""

import dataclasses

from visor_jax.layer_plan import LayerPlan
from visor_jax.models.adapters import RANDOM, with_adapters
from visor_jax.models.config import VLMConfig
from visor_jax.models.variants import dense, variant, with_convolution
from visor_jax.ops.attention import check_kernel
from visor_jax.token_reduction.trained import to_train_with

# Values of `VLMConfig` that a run may change.
_OF_THE_NETWORK = ("reading_layers", "compute_dtype", "remat", "attention")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which network to train: a named variant with what a run changes of it.

    plan: "visor" (the variant's own layers unless some are given) or "dense".
    adapters, adapter_init: see `visor_jax.models.adapters`; None for the variant's own
      shape. What they start as matters to a run that begins with a checkpoint without.
    projector_convolution, compute_dtype, remat, attention, scan_layers: see
      `VLMConfig`; None for the variant's own. projector_convolution: 0 for none.
    reduce: the token reduction that the network is trained with, by its name in
      `visor_jax.token_reduction.registry`; None for none.
    """

    variant: str
    plan: str = "visor"
    self_layers: tuple[int, ...] | None = None
    cross_layers: tuple[int, ...] | None = None
    read_layers: tuple[int, ...] | None = None
    adapters: str | None = None
    adapter_init: str = RANDOM
    projector_convolution: int | None = None
    reading_layers: tuple[int, ...] | None = None
    compute_dtype: str | None = None
    remat: str | None = None
    attention: str | None = None
    scan_layers: str = "auto"
    reduce: str | None = None

    def build(self) -> VLMConfig:
        """Returns the network's configuration. Raises ValueError if impossible."""
        config = self._with_plan(variant(self.variant))
        overrides = {
            name: value
            for name in _OF_THE_NETWORK
            if (value := getattr(self, name)) is not None
        }
        config = config.replace(scan_layers=self.scan_layers, **overrides)
        config = with_convolution(config, self.projector_convolution)
        config = with_adapters(config, self.adapters, self.adapter_init)
        check_kernel(config.attention)
        return config if self.reduce is None else to_train_with(config, self.reduce)

    def _with_plan(self, config: VLMConfig) -> VLMConfig:
        if self.plan not in ("visor", "dense"):
            raise ValueError(f"model.plan={self.plan!r} is not 'visor' or 'dense'.")
        given = {
            "self_": self.self_layers,
            "cross": self.cross_layers,
            "read": self.read_layers,
        }
        own = all(layers is None for layers in given.values())
        if self.plan == "dense":
            if not own:
                raise ValueError(
                    "A dense plan takes no self_layers, cross_layers or read_layers."
                )
            return dense(config)
        if own:
            return config
        plan = config.plan
        defaults = {
            "self_": plan.self_layers,
            "cross": plan.cross_layers,
            "read": plan.read_layers,
        }
        layers = {k: defaults[k] if v is None else v for k, v in given.items()}
        # The variant's reading layers belong to its own plan.
        return config.replace(
            reading_layers=(), plan=LayerPlan.build(plan.num_layers, **layers)
        )
