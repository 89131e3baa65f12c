"""The flag --config of the commands that read a configuration file.

Every value of the file is a flag of its own: `--config.seed=1 --config.loop.steps=300`.
"""

from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from visor_jax.commands.sibling_imports import neighbours_of


def define_config_flag() -> None:
    """Declares the configuration file, whose values further flags override."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Configuration file, e.g. configs/universal.py[:preset]; its values are flags "
        "as well, e.g. --config.seed=1 (see python -m visor_jax.show.config).",
        lock_config=True,
    )
    parser = flags.FLAGS["config"].parser
    load = parser.parse

    def load_beside_its_neighbours(path: str) -> Any:
        file, _, _ = path.partition(":")
        with neighbours_of(file):
            return load(path)

    parser.parse = load_beside_its_neighbours


def config_of(options: Any) -> ConfigDict:
    """Returns the configuration that the flags describe.

    Raises:
      ValueError: if no file is named.
    """
    if options.config is None:
        raise ValueError("--config=FILE is needed, e.g. configs/universal.py.")
    return options.config
