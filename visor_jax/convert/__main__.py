"""`python -m visor_jax.convert`: LLaVA-OneVision weights in, trained networks out.

    python -m visor_jax.convert --from_hf=PATH_OR_ID --out=DIR [--plan=dense|visor|read]
    python -m visor_jax.convert --checkpoint=DIR --to_hf=DIR

The first writes a checkpoint that every command here opens, tokenizer and processor
files beside it. The second writes a folder that transformers loads. Runs on the CPU.
"""

from absl import flags

from visor_jax.checkpoints.hf.import_options import DTYPES, PLANS, PlanChoice
from visor_jax.commands import command_line
from visor_jax.models.adapters import INITS, RANDOM, SHAPES
from visor_jax.runtime.arguments import LEAST_SEED, MOST_SEED


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_string("from_hf", None, "Folder or Hub id of a LLaVA-OneVision.")
    flags.DEFINE_string("revision", None, "Of a Hub id: branch, tag or commit.")
    flags.DEFINE_string("out", None, "New workdir for what is imported.")
    flags.DEFINE_enum(
        "plan", None, PLANS, "Default: the folder's own if it has one, else dense."
    )
    flags.DEFINE_list("cross_layers", None, "CROSS layers of --plan=visor, e.g. 0,3,6.")
    flags.DEFINE_list("self_layers", None, "SELF layers of --plan=visor, e.g. 2,5.")
    flags.DEFINE_enum(
        "adapters", "decoder", SHAPES, "K/V heads of new adapters: the decoder's, all."
    )
    flags.DEFINE_enum(
        "adapter_init", RANDOM, INITS, "New adapters start so, or as their layer's own."
    )
    flags.DEFINE_enum("dtype", "stored", DTYPES, "Of the weights that are written.")
    # As many as keys of random numbers have.
    seeds = {"lower_bound": LEAST_SEED, "upper_bound": MOST_SEED}
    flags.DEFINE_integer("seed", 0, "Of parameters that are new.", **seeds)
    flags.DEFINE_string("checkpoint", None, "Workdir or checkpoint to export.")
    flags.DEFINE_string("to_hf", None, "New folder for what is exported.")
    flags.DEFINE_string("max_shard_size", "5GB", "Of one exported file of weights.")


if __name__ == "__main__":
    command_line.begin(define_flags)

import contextlib
import logging
from pathlib import Path
from typing import Any

import jax
from etils import epath

from visor_jax.checkpoints import layout, workdir_files
from visor_jax.checkpoints.hf.hub import find_folder
from visor_jax.checkpoints.hf.import_network import import_network
from visor_jax.checkpoints.hf.weights.write_folder import parse_size, write_folder
from visor_jax.checkpoints.restore import newest_readable
from visor_jax.runtime.machine import git_commit
from visor_jax.runtime.ownership import is_of_an_owner, owned_folder

_logger = logging.getLogger("visor_jax.convert")

# The flags that only one way of converting reads.
_READ_WITH = {
    "--from_hf": ("revision", "plan", "seed"),
    "--plan=visor": ("cross_layers", "self_layers", "adapters", "adapter_init"),
    "--to_hf": ("max_shard_size",),
}


def main(arguments: list[str]) -> None:
    """Imports or exports, as the flags say."""
    del arguments
    options = flags.FLAGS
    # Weights are only moved: no accelerator has to be free, or large enough.
    jax.config.update("jax_platforms", "cpu")
    with command_line.user_errors():
        way = _chosen(options)
        _check_unread(options)
        if way == "import":
            step = import_checkpoint(
                options.from_hf,
                options.out,
                revision=options.revision,
                plan=_plan_choice(options),
                adapters=options.adapters,
                adapter_init=options.adapter_init,
                dtype=options.dtype,
                seed=options.seed,
            )
            print(f"imported {options.from_hf}: {step}")
        else:
            files = export_checkpoint(
                options.checkpoint,
                options.to_hf,
                max_shard_size=options.max_shard_size,
                dtype=options.dtype,
            )
            print(f"exported to {options.to_hf}: {', '.join(files)}")


def _chosen(options: Any) -> str:
    """Returns "import" or "export". Raises ValueError unless flags ask for one."""
    given = {
        name
        for name in ("from_hf", "out", "checkpoint", "to_hf")
        if getattr(options, name)
    }
    if given == {"from_hf", "out"}:
        return "import"
    if given == {"checkpoint", "to_hf"}:
        return "export"
    raise ValueError(
        "Give --from_hf and --out to import, or --checkpoint and --to_hf to export."
    )


def _check_unread(options: Any) -> None:
    """Raises ValueError if a flag was given that nothing would read."""
    here = {"--from_hf"} if options.from_hf else {"--to_hf"}
    if options.from_hf and options.plan == "visor":
        here.add("--plan=visor")
    for owner, names in _READ_WITH.items():
        given = [f"--{name}" for name in names if options[name].present]
        if given and owner not in here:
            raise ValueError(
                f"{', '.join(given)} would change nothing without {owner}: leave out."
            )


def _plan_choice(options: Any) -> PlanChoice:
    """Returns --plan, or the layers by kind where they are listed."""
    given = {"cross": options.cross_layers, "self_": options.self_layers}
    if all(layers is None for layers in given.values()):
        return options.plan
    if None in given.values():
        raise ValueError(
            "--cross_layers and --self_layers belong together: give both, or neither "
            "for the layers of --plan=visor. An empty list is none: --self_layers=."
        )
    try:
        return {
            kind: tuple(int(layer) for layer in layers or ())
            for kind, layers in given.items()
        }
    except ValueError as error:
        raise ValueError(
            f"Layers are listed by number, e.g. 0,3,6 ({error})."
        ) from None


def import_checkpoint(
    path_or_id: str,
    out: epath.PathLike,
    *,
    revision: str | None = None,
    plan: PlanChoice = None,
    adapters: str = SHAPES[0],
    adapter_init: str = RANDOM,
    dtype: str = "stored",
    seed: int = 0,
) -> epath.Path:
    """Returns the step directory that was made of a Hugging Face folder.

    Args:
      path_or_id: folder or Hub id.
      out: workdir, new or empty.
      plan: one of PLANS, {"cross": layers, "self_": layers}, or None for the
        folder's own (dense, unless this project exported a VISOR network).
      adapters, adapter_init: of new adapters, see `visor_jax.models.adapters`.
      dtype: "stored" keeps the weights as they are, bit for bit.
      seed: of parameters that the folder does not hold.

    Raises:
      ValueError: if the folder is not a whole LLaVA-OneVision checkpoint, the plan is
        impossible, or `out` is not empty.
    """
    with _owned(out, "--out"):
        return _import(
            path_or_id,
            workdir_files.check_empty(out),
            revision=revision,
            plan=plan,
            adapters=adapters,
            adapter_init=adapter_init,
            dtype=dtype,
            seed=seed,
        )


def _owned(
    folder: epath.PathLike, flag: str
) -> contextlib.AbstractContextManager[None]:
    """Inside, this process alone writes the folder; of a bucket's nobody can know."""
    if layout.is_remote(folder):
        return contextlib.nullcontext()
    remedy = f"Wait for it, stop it, or give another {flag}."
    return owned_folder(layout.absolute(folder), remedy=remedy)


def _import(
    path_or_id: str,
    out: epath.Path,
    *,
    revision: str | None,
    **how: Any,
) -> epath.Path:
    folder = find_folder(path_or_id, revision=revision)
    network = import_network(folder, **how)
    metadata = {
        "task": "import",
        "label": Path(path_or_id).name,
        "seed": how["seed"],
        "model": network.config.to_dict(),
        "budgets": list(network.found.budgets),
        "train_steps": 0,
        "metrics_offset": 0,
        "wall_clock_s": 0.0,
        "git_commit": git_commit(),
        "new_parameters": network.found.new,
        "source": {
            "from_hf": str(path_or_id),
            "revision": revision,
            "dtype": network.dtype.name,
            "config": network.found.source,
        },
    }
    # Before the step, which makes the workdir a checkpoint, whole or not.
    beside = out / workdir_files.TOKENIZER
    copied = workdir_files.copy_files(workdir_files.PROCESSING_FILES, folder, beside)
    if workdir_files.NEEDED not in copied:
        _logger.warning(
            "%s has no %s: what is imported cannot answer before there is one in %s",
            folder,
            workdir_files.NEEDED,
            beside,
        )
    return workdir_files.write_step_0(out, network.params, metadata)


def export_checkpoint(
    checkpoint: epath.PathLike,
    to_hf: epath.PathLike,
    *,
    max_shard_size: str = "5GB",
    dtype: str = "stored",
) -> list[str]:
    """Returns the names of the files written to the folder `to_hf`.

    Args:
      checkpoint: workdir, its `checkpoints` directory, or one step directory.
      to_hf: folder, new or empty.
      dtype: "stored" keeps the weights as they are, bit for bit.

    Raises:
      ValueError: if there is no checkpoint, it is damaged, its network is no
        LLaVA-OneVision, or `to_hf` is not empty.
    """
    limit = parse_size(max_shard_size)
    layout.check_local(to_hf, "a folder of Hugging Face")

    def write(step: epath.Path) -> list[str]:
        try:
            return write_folder(
                step,
                out,
                max_shard_size=limit,
                dtype=None if dtype == "stored" else dtype,
            )
        except layout.DamagedCheckpointError:
            # The older checkpoint's files may have other names. All here are ours.
            for file in out.iterdir():
                if not is_of_an_owner(file):
                    file.unlink()
            raise

    with _owned(to_hf, "--to_hf"):
        out = workdir_files.check_empty(to_hf)
        return newest_readable(checkpoint, write)


if __name__ == "__main__":
    command_line.run(main)
