"""A slider for the budget: the answer, what it costs and how long it takes, at once."""

import functools
import html
import io
from collections.abc import Sequence

import ipywidgets as widgets
import numpy as np
from IPython.display import display
from PIL import Image

from visor_jax.budget import Budget
from visor_jax.data.images.read_image import ImageInput, read_image
from visor_jax.flops.table import GIGA
from visor_jax.inference.generation.generate import Latency
from visor_jax.inference.visor_model import VisorModel

_WIDE = widgets.Layout(width="34em")
# Pixels of the picture's longer side, as it is shown.
_SIDE = 288


class BudgetExplorer:
    """A question, a slider over the network's budgets, and what becomes of the answer.

    picture: what is asked about. question, budget: the two widgets, whose `value` may
    also be set by a program. result: what they lead to, as HTML. box: all of it, to be
    displayed.
    """

    def __init__(
        self,
        model: VisorModel,
        image: ImageInput,
        questions: Sequence[str] = (),
        *,
        max_new_tokens: int | None = None,
    ) -> None:
        """Compiles the network's programs at every budget, and answers once.

        Args:
          questions: to choose from; others can be written.
        """
        self._model, self._image = model, image
        self._max_new_tokens = max_new_tokens
        budgets = list(model.budgets)
        self.picture = widgets.Image(value=_as_shown(image), format="png")
        self.question = widgets.Combobox(
            value=questions[0] if questions else "",
            options=tuple(questions),
            description="question",
            continuous_update=False,
            layout=_WIDE,
        )
        self.budget = widgets.SelectionSlider(
            options=[(each.name, each) for each in budgets],
            value=model.budget(None),
            description="budget",
            continuous_update=False,
            layout=_WIDE,
        )
        self.result = widgets.HTML()
        asked = widgets.VBox([self.question, self.budget, self.result])
        centred = widgets.Layout(align_items="center")
        self.box = widgets.HBox([self.picture, asked], layout=centred)
        self._answer = functools.lru_cache(maxsize=256)(self._ask)
        self._latency = functools.lru_cache(maxsize=256)(self._time)
        for each in budgets:
            self._show(each)
        for widget in (self.question, self.budget):
            widget.observe(lambda _: self._show(self.budget.value), names="value")
        self._show(self.budget.value)

    def _ipython_display_(self) -> None:
        display(self.box)

    def _show(self, budget: Budget) -> None:
        try:
            self.result.value = self._table(self.question.value, budget)
        except ValueError as error:
            self.result.value = f"<i>{html.escape(str(error))}</i>"

    def _table(self, question: str, budget: Budget) -> str:
        batch = self._model.batch(self._image, question)
        cost = self._model.cost(
            budget,
            text_tokens=int(batch.text_mask.sum()),
            image_tokens=int(batch.image_mask.sum()),
            crops=batch.pixels.shape[1],
        )
        latency = self._latency(question, budget)
        on = ", ".join(map(str, budget.self_layers)) or "none"
        facts = {
            "answer": f"<b>{html.escape(self._answer(question, budget))}</b>",
            "layers that refine the image": on,
            "LLM prefill": f"{cost.llm_prefill / GIGA:.3g} GFLOP, "
            f"{cost.llm_saving:.2f} times less than dense",
            "with tower and projector": f"{cost.end_to_end_saving:.2f} times less",
            "prefill here": f"{latency.prefill:.1f} ms",
        }
        rows = (
            f"<tr><td>{name}&emsp;</td><td>{value}</td></tr>"
            for name, value in facts.items()
        )
        return f"<table>{''.join(rows)}</table>"

    def _ask(self, question: str, budget: Budget) -> str:
        return self._model.generate(
            self._image, question, budget, max_new_tokens=self._max_new_tokens
        )

    def _time(self, question: str, budget: Budget) -> Latency:
        # As many tokens as for the answer: then it is the answer's own programs.
        count = self._max_new_tokens
        batch = self._model.batch(self._image, question, max_new_tokens=count)
        return self._model.latency(batch, budget, max_new_tokens=count)


def _as_shown(image: ImageInput) -> bytes:
    """Returns a picture as PNG, `_SIDE` pixels or somewhat less along its longer side.

    Small ones are drawn larger, pixel by pixel.
    """
    picture = Image.fromarray(np.asarray(read_image(image)))
    times = _SIDE // max(picture.size)
    if times > 1:
        size = tuple(times * side for side in picture.size)
        picture = picture.resize(size, Image.Resampling.NEAREST)
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, format="png")
    return file.getvalue()
