"""What the network of these tests is."""

from visor_jax.models.variants import mini_tiles

CONFIG = mini_tiles().replace(reading_layers=())
METADATA = {"settings": {"data": {"pages": {"kind": "tiles"}}}, "seed": 7}
