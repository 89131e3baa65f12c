"""Tables of FLOPs and savings: one per network and image, one row per budget.

The dense network is the last row, so that every saving stands next to what it is
measured against. `HEADER` says what the figures count: print it with every table.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from visor_jax.budget import Budget
from visor_jax.flops.account import Account, account, savings
from visor_jax.models.config import VLMConfig

GIGA = 1e9

HEADER = """\
FLOPs of one sample in GFLOP; 1 multiply-add = 2 FLOPs.
Counted: matrix products and convolutions, as the program executes them (full attention
  rectangles: the causal half is masked, not skipped; padding costs what tokens cost),
  the adapters' depthwise convolutions among them.
Not counted: other elementwise work, softmax, norms, gathers, the policy, the auxiliary
  reading loss.
tower, projector: all crops, every patch, also those that unpadding drops later.
LLM prefill: all decoder layers and the logits of the positions named below.
decode/token: one more token with a KV cache, its logits included; in no saving.
LLM saving: dense / budget, LLM prefill alone.
end-to-end saving: dense / budget, tower + projector + LLM prefill.
dense: every layer SELF and on. Its last layer does not refine the image, which nobody
  reads, so it is about 1/L cheaper than a network that computes that layer in full."""

COLUMNS = (
    "budget",
    "tower",
    "projector",
    "LLM prefill",
    "decode/token",
    "LLM saving",
    "end-to-end saving",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One budget's figures, FLOPs per sample; see `HEADER`."""

    budget: str
    tower: int
    projector: int
    llm_prefill: int
    decode_per_token: int
    llm_saving: float
    end_to_end_saving: float

    @classmethod
    def of(cls, name: str, measured: Account) -> "Row":
        """Returns the row; the decoded token is the first one after the prompt."""
        saved = savings(measured)
        return cls(
            budget=name,
            tower=measured.tower.total,
            projector=measured.projector,
            llm_prefill=measured.llm_prefill,
            decode_per_token=measured.decode_per_token(measured.text_tokens + 1),
            llm_saving=saved.llm_saving,
            end_to_end_saving=saved.end_to_end_saving,
        )

    def cells(self) -> tuple[str, ...]:
        """Returns the row as text, in the order of `COLUMNS`."""
        return (
            self.budget,
            f"{self.tower / GIGA:.3f}",
            f"{self.projector / GIGA:.3f}",
            f"{self.llm_prefill / GIGA:.3f}",
            f"{self.decode_per_token / GIGA:.4f}",
            f"{self.llm_saving:.2f}x",
            f"{self.end_to_end_saving:.2f}x",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of one network on one image and prompt length."""

    variant: str
    text_tokens: int
    image_tokens: int
    crops: int
    logit_positions: int
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        title = (
            f"{self.variant}: {self.image_tokens} image tokens (crops: {self.crops}), "
            f"{self.text_tokens} text tokens, logits at {self.logit_positions}"
        )
        body = aligned([COLUMNS, *(row.cells() for row in self.rows)])
        return "\n".join([title, *body])


def tabulate(
    variant: str,
    config: VLMConfig,
    budgets: Sequence[Budget],
    *,
    text_tokens: int,
    image_tokens: int,
    crops: int,
    logit_positions: int | None = None,
) -> Table:
    """Returns the table of these budgets in the order given, dense last.

    Raises:
      ValueError: as `visor_jax.flops.account.account`.
    """
    accounts = [
        account(
            config,
            budget,
            text_tokens=text_tokens,
            image_tokens=image_tokens,
            crops=crops,
            logit_positions=logit_positions,
        )
        for budget in budgets
    ]
    rows = [Row.of(a.budget.name, a) for a in accounts]
    rows.append(Row.of("dense", accounts[0].dense()))
    return Table(
        variant=variant,
        text_tokens=text_tokens,
        image_tokens=image_tokens,
        crops=crops,
        logit_positions=accounts[0].logit_positions,
        rows=tuple(rows),
    )


def prompt_cost(
    config: VLMConfig,
    budget: Budget,
    *,
    text_tokens: int = 8,
    image_tokens: int | None = None,
    crops: int = 1,
    logit_positions: int | None = 1,
    image_lengths: Callable[[int, int], Sequence[int]] | None = None,
    selection: Callable[[int, int], int] | None = None,
    crop_selection: int = 0,
    tower_side: int | None = None,
    first_look: Budget | None = None,
) -> Row:
    """Returns the FLOPs of one prompt, and what the budget saves (see HEADER).

    Args:
      image_tokens: None for one crop's.
      logit_positions: 1, all that a generation needs; None for all text tokens.
      image_lengths: what each layer sees of these image tokens, in so many layers
        (`TokenReducer.image_lengths`); None for all.
      selection: FLOPs of dropping the others, of text and image tokens; None for none.
      crop_selection: FLOPs of that before the decoder.
      tower_side: see `account`.
      first_look: of a cascade that has looked again, in `budget`; its prefill counts,
        too, and tower and trunk ran for it.

    Raises:
      ValueError: for an impossible length.
    """
    if image_tokens is None:
        image_tokens = config.vision.num_patches
    seen = None
    if image_lengths is not None:
        seen = image_lengths(image_tokens, config.plan.num_layers)
    first, *again = (
        account(
            config,
            each,
            text_tokens=text_tokens,
            image_tokens=image_tokens,
            crops=crops,
            logit_positions=logit_positions,
            image_lengths=seen,
            selection=0 if selection is None else selection(text_tokens, image_tokens),
            crop_selection=crop_selection,
            tower_side=tower_side,
        )
        for each in ((budget,) if first_look is None else (first_look, budget))
    )
    if not again:
        return Row.of(budget.name, first)
    return _of_looks(first, *again)


def _of_looks(first: Account, again: Account) -> Row:
    """Returns the row of a prompt that was looked at twice."""
    prefill, dense = first.llm_prefill + again.behind_trunk, first.dense()
    before = first.tower.total + first.projector + first.crop_selection
    return dataclasses.replace(
        Row.of(again.budget.name, again),
        llm_prefill=prefill,
        llm_saving=dense.llm_prefill / prefill,
        end_to_end_saving=dense.end_to_end / (before + prefill),
    )


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns one line per row: first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        pairs = zip(others, widths[1:], strict=True)
        cells += [text.rjust(width) for text, width in pairs]
        lines.append("  ".join(cells))
    return lines
