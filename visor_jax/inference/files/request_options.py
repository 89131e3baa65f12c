"""What the lines of a file say of their own answers, beside what is said of all."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Sequence

from visor_jax.budget import Budget, BudgetSet
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.sampling import Sampling
from visor_jax.inference.files.request_file import RequestEntry
from visor_jax.inference.loading.network import Network
from visor_jax.inference.routing.cascade import Cascade, is_cascade
from visor_jax.inference.routing.choose_budgets import AUTO
from visor_jax.look import BASE
from visor_jax.look_cascade import is_look_cascade


def with_defaults(
    line: RequestEntry,
    *,
    budget: str,
    max_new_tokens: int,
    stop: Sequence[str],
    crops: str | None = None,
) -> RequestEntry:
    """Returns the line with what is said of all where it says nothing itself.

    Its digest stays: it is of the line alone.
    """
    if line.request is None:
        return line
    said = line.request.options
    said = dataclasses.replace(
        said,
        budget=said.budget or budget,
        max_new_tokens=said.max_new_tokens or max_new_tokens,
        stop=said.stop or tuple(stop),
        crops=said.crops or crops,
    )
    request = dataclasses.replace(line.request, options=said)
    return dataclasses.replace(line, request=request)


def options_of(lines: Iterable[RequestEntry]) -> list[AnswerOptions]:
    """Returns what all lines say that can be read."""
    return [line.request.options for line in lines if line.request is not None]


def known_budgets(
    said: Iterable[AnswerOptions],
    budgets: BudgetSet,
    find_cascade: Callable[[str], Cascade],
) -> list[Budget | str]:
    """Returns the budgets that lines ask for and the network has; cascades by name.

    A line that asks for another is an error of its own, said when its turn comes.
    """
    found: list[Budget | str] = []
    for name in dict.fromkeys(each.budget for each in said if each.budget is not None):
        with contextlib.suppress(ValueError):
            if is_cascade(name):
                find_cascade(name)
                found.append(name)
            else:
                found.append(budgets.find(name))
    return found


def known_looks(said: Iterable[AnswerOptions], network: Network) -> list[str]:
    """Returns the crops that lines ask for and the network can be shown.

    A line that asks for others is an error of its own, said when its turn comes.
    """
    found = []
    for name in dict.fromkeys(each.crops for each in said if each.crops is not None):
        with contextlib.suppress(ValueError):
            network.looking_at(BASE if is_look_cascade(name) else name)
            found.append(name)
    return found


def budget_name(
    name: str | None, budgets: BudgetSet, find_cascade: Callable[[str], Cascade]
) -> str:
    """Returns what answers are said to be made with, where a line names no budget.

    A cascade with its threshold: another calibration is another setting.

    Raises:
      ValueError: for what the network has not.
    """
    if is_cascade(name):
        return find_cascade(name).name
    return AUTO if name == AUTO else budgets.find(name).name


def draws_from_common_key(said: Iterable[AnswerOptions], sampling: Sampling) -> bool:
    """Returns whether an answer depends on the seed of all.

    sampling: of lines that say nothing of it.
    """
    unseeded = [each.sampling or sampling for each in said if each.seed is None]
    return not all(each.is_greedy for each in [sampling, *unseeded])
