"""Flags of `python -m visor_jax.plan` about TPUs; declaring them takes no jax."""

from absl import flags


def define_tpu_flags() -> None:
    """Declares what is asked of the compiler for TPUs."""
    flags.DEFINE_string(
        "topology",
        None,
        "TPU slice that --compile compiles for, e.g. v5e:4x4, with the TPU's own "
        "compiler (pip install -e '.[tpu]'); default: simulated CPU devices.",
    )
    flags.DEFINE_integer("slices", 1, "Slices of --topology.")
    flags.DEFINE_enum(
        "effort",
        "fast",
        ["fast", "full"],
        "Of that compiler: 'fast' plans the same memory, 'full' as training compiles.",
    )
    flags.DEFINE_bool("json", False, "Of --topology: a line of JSON, and no table.")
