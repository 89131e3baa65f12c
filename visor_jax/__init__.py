"""visor_jax: VISOR (VISion On Request) in JAX and Flax."""

__version__ = "0.1.0"
