"""Where compiled programs are kept from one process to the next."""

from pathlib import Path

import jax


def keep_programs(folder: Path) -> None:
    """Lets compiled programs be kept in a folder, where the next process finds them.

    The same as JAX_COMPILATION_CACHE_DIR, but programs that compile fast are kept too.
    Programs fit one machine type and version of jax; others compile again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
