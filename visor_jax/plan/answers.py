"""`python -m visor_jax.plan --answers`: does a network that answers fit the devices?"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from visor_jax.budget import BudgetSet
from visor_jax.models.config import VLMConfig
from visor_jax.plan.accelerators import Accelerator
from visor_jax.plan.answer_bytes import AnswerBytes, AnswerShape, answer_bytes
from visor_jax.plan.mesh_flag import read_mesh
from visor_jax.plan.table import device_table
from visor_jax.sharding.mesh import AnyMesh, MeshSettings, check_heads, planned_mesh

_LENGTHS = ("crops", "image_tokens", "text_tokens")
FOOTNOTE = (
    "GB = 1e9 bytes; keys and values of every answer in the column's budget. `answer\n"
    "--memory_gb` bounds answers, prompts that wait and kept images together.\n"
    "Not counted: the runtime's own memory, compiled programs, gaps between buffers."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerPlan:
    """A network that answers on a mesh of devices that need not be here."""

    name: str
    config: VLMConfig
    budgets: BudgetSet
    mesh: AnyMesh
    shape: AnswerShape

    def columns(self) -> dict[str, AnswerBytes]:
        """Returns the bytes at the smallest and the largest budget.

        Raises:
          ValueError: if the mesh does not split the network.
        """
        check_heads(self.config.decoder.num_heads, self.mesh)
        found = (self.budgets.smallest, self.budgets.largest)
        return {
            budget.name: answer_bytes(self.config, self.shape, budget, mesh=self.mesh)
            for budget in found
        }

    def describe(self) -> str:
        """Returns what is planned, in two lines."""
        axes = " x ".join(f"{name} {size}" for name, size in self.mesh.shape.items())
        shape = self.shape
        return (
            f"{self.name} answers on {self.mesh.size} devices ({axes}), "
            f"{self.config.compute_dtype}: {shape.prompts} prompts read at once, "
            f"{shape.slots} answers written\n"
            f"a prompt: {shape.crops} crops, {shape.image_tokens} image tokens, "
            f"{shape.text_tokens} text tokens; {shape.new_tokens} new tokens"
        )


def answer_table(columns: Mapping[str, AnswerBytes]) -> str:
    """Returns a row per kind of memory and a column per budget."""
    each = list(columns.values())
    numbers = {
        "parameters": [one.parameters for one in each],
        "keys and values: answers": [one.answers for one in each],
        "keys and values: prompts read": [one.prompts for one in each],
        **{
            f"beside them: {moment}": [one.moments[moment] for one in each]
            for moment in each[0].moments
        },
        "total at the fullest moment": [one.total for one in each],
    }
    rows = [("", list(columns))]
    rows += [(k, [f"{x / 1e9:.3f}" for x in values]) for k, values in numbers.items()]
    rows.append(("fullest moment", [one.peak for one in each]))
    widths = [max(12, len(name) + 2) for name in columns]
    return "\n".join(
        f"{name:<34}"
        + "".join(f"{x:>{width}}" for x, width in zip(values, widths, strict=True))
        for name, values in rows
    )


def described_network(path: str) -> tuple[VLMConfig, BudgetSet]:
    """Returns sizes and budgets of a checkpoint, of which no array is read.

    Args:
      path: ours, or a folder in the form of Hugging Face. No id: nothing is fetched.

    Raises:
      ValueError: if there is no such checkpoint.
    """
    from visor_jax.checkpoints.hf.import_network import find_network
    from visor_jax.checkpoints.layout import absolute
    from visor_jax.checkpoints.stored_network import newest_network

    if any(absolute(path).glob("*.safetensors*")):
        found = find_network(absolute(path))
        return found.config, BudgetSet.parse(found.budgets, found.config.plan)
    stored = newest_network(path)
    return stored.config, stored.budgets


def read_plan(
    options: Any,
    name: str,
    network: tuple[VLMConfig, BudgetSet] | None,
    lengths: Mapping[str, int],
) -> AnswerPlan:
    """Returns the plan that the flags ask for.

    Args:
      network: sizes and budgets; None to look into the checkpoint that the name is.
      lengths: of a prompt, where the flags say none: crops, image_tokens, text_tokens;
        and corners, which no flag says.

    Raises:
      ValueError: for bad values, or lengths that nothing says.
    """
    asked = {key: getattr(options, key) for key in _LENGTHS}
    found = {k: lengths.get(k) if v is None else v for k, v in asked.items()}
    missing = [f"--{key}" for key, value in found.items() if value is None]
    if missing:
        raise ValueError(
            f"A checkpoint does not say how long prompts are: add {', '.join(missing)}."
        )
    mesh = (1, 1, 1)
    if options.mesh is not None:
        mesh = read_mesh(options.mesh, MeshSettings())
    shape = AnswerShape(
        prompts=options.rows,
        slots=options.slots,
        new_tokens=options.new_tokens,
        corners=lengths.get("corners", 1),
        **found,
    )
    config, budgets = described_network(name) if network is None else network
    if options.dtype is not None:
        config = config.replace(compute_dtype=options.dtype)
    return AnswerPlan(
        name=name,
        config=config,
        budgets=budgets,
        mesh=planned_mesh(*mesh),
        shape=shape,
    )


def as_text(plan: AnswerPlan, devices: Iterable[Accelerator]) -> str:
    """Returns what the network needs, by formula, and whether devices hold it.

    Raises:
      ValueError: if the mesh does not split the network.
    """
    columns = plan.columns()
    needed = max(one.total for one in columns.values())
    return (
        f"{plan.describe()}\n\n{answer_table(columns)}\n\n"
        f"{device_table(needed, devices)}\n\n{FOOTNOTE}"
    )
