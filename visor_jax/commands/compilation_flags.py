"""The flag --compilation_cache of all commands, and what it stands for.

Commands keep compiled programs in the user's cache folder unless they are told
otherwise; `visor_jax.load` does not unless it is asked to.
"""

import logging
from pathlib import Path
from typing import Any

from absl import flags

_logger = logging.getLogger("visor_jax.commands.compilation_flags")

OFF = "off"
# Of a program that is worth a file of its own, where nobody names the folder.
_LEAST_SECONDS = 0.1


def define_compilation_flags() -> None:
    """Declares where compiled programs are kept."""
    flags.DEFINE_string(
        "compilation_cache",
        None,
        "Folder that keeps compiled programs for the next start, 'off' for none; "
        "default: $JAX_COMPILATION_CACHE_DIR, or the user's cache folder.",
    )


def keep_programs(options: Any) -> None:
    """Lets compiled programs be kept where the flag says. Never fails."""
    # Not at import: declaring the flag takes no jax.
    import jax

    from visor_jax.runtime import compile_cache
    from visor_jax.runtime.remote.bucket import is_remote

    asked = options.compilation_cache
    if asked == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if not jax.config.jax_enable_compilation_cache:
        return
    compile_cache.one_warning_about_faults()
    if asked is not None and is_remote(asked):
        _logger.warning(
            "warning: compiled programs are not kept in %s: every start compiles them "
            "again; --compilation_cache=DIR names a local or mounted folder",
            asked,
        )
    elif asked is not None:
        compile_cache.keep_programs(Path(asked))
    elif jax.config.jax_compilation_cache_dir is None:
        folder = compile_cache.user_folder()
        compile_cache.keep_programs(folder, least_seconds=_LEAST_SECONDS)
