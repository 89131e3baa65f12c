"""What a notebook shows of a loaded network: its sizes, plan and budgets."""

import html

import jax

from visor_jax.flops.table import GIGA
from visor_jax.inference.loading.network import Network
from visor_jax.layer_plan import LayerPlan

# Rows of the table of budgets.
_MOST_BUDGETS = 16


def summary_html(network: Network) -> str:
    """Returns an HTML table of what the network is and what its budgets cost."""
    config, metadata = network.config, network.metadata
    count = sum(leaf.size for leaf in jax.tree.leaves(network.params))
    facts = {
        "parameters": f"{count:,}",
        "layers": _layers(config.plan),
        "image": f"{config.vision.image_size} pixels a side, "
        f"{config.vision.num_patches} tokens a crop",
        "from": metadata.get("source") or metadata.get("label", "unknown"),
        "policy": "yes: budget=“auto”" if network.policy is not None else "none",
    }
    if network.reduce is not None:
        facts["image tokens"] = f"reduced by {network.reduce}"
    rows = [(name, value) for name, value in facts.items()]
    shown = list(network.budgets)[:_MOST_BUDGETS]
    for budget in shown:
        cost = network.cost(budget)
        rows.append(
            (
                f"budget {budget.name}",
                f"{cost.llm_prefill / GIGA:.3g} GFLOP of LLM prefill, "
                f"{cost.llm_saving:.2f} times less than dense",
            )
        )
    if len(network.budgets) > len(shown):
        rows.append(("", f"and {len(network.budgets) - len(shown)} more budgets"))
    cells = (
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in rows
    )
    return f"<table>{''.join(cells)}</table>"


def _layers(plan: LayerPlan) -> str:
    if plan.is_dense:
        return f"{plan.num_layers}, all SELF: the dense network"
    kinds = {k: layers for k, layers in plan.layers_by_kind.items() if k != "TEXT"}
    named = [f"{k} {', '.join(map(str, layers))}" for k, layers in kinds.items()]
    return f"{plan.num_layers}: {'; '.join(named)}; the others TEXT"
