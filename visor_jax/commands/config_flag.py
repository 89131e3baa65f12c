"""The flag --config of the commands that read a configuration file.

Every value of the file is a flag of its own: `--config.seed=1 --config.loop.steps=300`.
"""

from typing import Any

from ml_collections import ConfigDict, config_flags


def define_config_flag() -> None:
    """Declares the configuration file, whose values further flags override."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Configuration file, e.g. configs/universal.py[:preset].",
        lock_config=True,
    )


def config_of(options: Any) -> ConfigDict:
    """Returns the configuration that the flags describe.

    Raises:
      ValueError: if no file is named.
    """
    if options.config is None:
        raise ValueError("--config=FILE is needed, e.g. configs/universal.py.")
    return options.config
