"""The library's front door: a trained network, opened from a path alone.

model = visor_jax.load("runs/universal")
model.generate("page.png", "digit row 2 column 3")
model.cost("sa1:3").llm_saving
"""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Array, Float

from visor_jax.batch import Batch
from visor_jax.budget import Budget, BudgetSet
from visor_jax.checkpoints.restore import check_fits, load_checkpoint, read_metadata
from visor_jax.data.image_files import ImageInput, read_square_image
from visor_jax.data.page_batches import single_question_batch
from visor_jax.data.pages.drawing import IMAGE_SIZE
from visor_jax.data.pages.packing import PATCH
from visor_jax.data.tokenizer import encode_question, load_tokenizer, page_tokenizer
from visor_jax.flops.account import account
from visor_jax.flops.table import Row
from visor_jax.inference.decode import answers
from visor_jax.inference.generation import Latency, generate, measure_latency
from visor_jax.inference.sampling import GREEDY, Sampling
from visor_jax.models.config import VLMConfig
from visor_jax.models.vlm import VLM

Params = Any
# A Hugging Face tokenizer; `visor_jax.data` alone imports that package.
Tokenizer = Any

DEFAULT_NEW_TOKENS = 8
# Prompts are padded to a multiple of this, so that few programs serve all of them.
_TEXT_MULTIPLE = 8
# Heads of the auxiliary reading loss: only training uses them.
_TRAINING_ONLY = "reading_heads"


class VisorModel:
    """A network with its parameters, budgets and tokenizer.

    config: its sizes and layer plan. budgets: what it was trained for, in class order.
    metadata: whatever else its run recorded (preset, seed, step, ...).
    """

    def __init__(
        self,
        config: VLMConfig,
        params: Params,
        budgets: BudgetSet,
        tokenizer: Tokenizer,
        metadata: dict[str, Any],
    ) -> None:
        self.config = config
        self.params = params
        self.budgets = budgets
        self.tokenizer = tokenizer
        self.metadata = metadata
        self.network = VLM(config)

    def generate(
        self,
        image: ImageInput,
        prompt: str,
        budget: str | Budget | None = None,
        *,
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        sampling: Sampling = GREEDY,
        key: Array | None = None,
    ) -> str:
        """Returns the answer to a question about an image.

        Args:
          image: a file, a PIL image or a uint8 array; resized to the network's size.
          prompt: the plain question.
          budget: a name ("none", "all", "sa1:3") or a Budget; None for the largest.
          key: for random sampling.

        Raises:
          ValueError: for an image that cannot be read, words the tokenizer does not
            know, or a budget that the network was not trained for.
        """
        batch, chosen = self.batch(image, prompt), self.budget(budget)
        return self.answer(
            batch, chosen, max_new_tokens=max_new_tokens, sampling=sampling, key=key
        )

    def logits(
        self, image: ImageInput, prompt: str, budget: str | Budget | None = None
    ) -> Float[np.ndarray, "T W"]:
        """Returns float32 logits of what follows each of the prompt's T tokens.

        The last token is the ":" that ends every prompt. Arguments and errors are those
        of `generate`.
        """
        batch, gates = self.batch(image, prompt), self._gates(self.budget(budget))
        logits = _logits(self.params, batch, model=self.network, gates=gates)
        return np.asarray(logits)[0, batch.text_mask[0]]

    def cost(
        self,
        budget: str | Budget | None = None,
        *,
        text_tokens: int = _TEXT_MULTIPLE,
        image_tokens: int | None = None,
        crops: int = 1,
        logit_positions: int | None = 1,
    ) -> Row:
        """Returns the FLOPs of a budget and what it saves against the dense network.

        What is counted, and against what: `visor_jax.flops.table.HEADER`.

        Args:
          budget: any of the network's plan, also one it was not trained for.
          image_tokens: None for one crop's.
          logit_positions: 1, all that a generation needs; None for all text tokens.

        Raises:
          ValueError: for an unknown budget or an impossible length.
        """
        chosen = self._parse(budget)
        measured = account(
            self.config,
            chosen,
            text_tokens=text_tokens,
            image_tokens=(
                self.config.vision.num_patches if image_tokens is None else image_tokens
            ),
            crops=crops,
            logit_positions=logit_positions,
        )
        return Row.of(chosen.name, measured)

    def budget(self, budget: str | Budget | None = None) -> Budget:
        """Returns the budget of that name, the largest for None.

        Raises:
          ValueError: if the network was not trained for it, with those it was.
        """
        known = ", ".join(self.budgets.names)
        try:
            chosen = self._parse(budget)
        except ValueError as error:
            raise ValueError(f"{error} This checkpoint's budgets: {known}.") from error
        if chosen not in self.budgets.budgets:
            raise ValueError(
                f"This checkpoint was not trained for budget {chosen.name!r}: choose "
                f"one of {known}."
            )
        return chosen

    def batch(self, image: ImageInput, prompt: str) -> Batch:
        """Returns the one-row batch of a question. Raises ValueError as `generate`."""
        length = len(encode_question(self.tokenizer, prompt))
        pixels = read_square_image(image, self.config.vision.image_size)
        return single_question_batch(
            pixels,
            prompt,
            self.tokenizer,
            text_length=-(-length // _TEXT_MULTIPLE) * _TEXT_MULTIPLE,
        )

    def answer(
        self,
        batch: Batch,
        budget: Budget,
        *,
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        sampling: Sampling = GREEDY,
        key: Array | None = None,
    ) -> str:
        """Returns the answer to a one-row batch. Raises ValueError as `generate`."""
        tokens = generate(
            self.network,
            self.params,
            batch,
            budget,
            max_new_tokens=max_new_tokens,
            eos_id=self.tokenizer.eos_token_id,
            pad_id=self.tokenizer.pad_token_id,
            sampling=sampling,
            key=key,
        )
        (words,) = answers(tokens, self.tokenizer.eos_token_id)
        return self.tokenizer.decode(words, skip_special_tokens=True)

    def latency(
        self, batch: Batch, budget: Budget, *, max_new_tokens: int = DEFAULT_NEW_TOKENS
    ) -> Latency:
        """Returns the measured milliseconds of prefill and of each further token."""
        return measure_latency(
            self.network, self.params, batch, budget, max_new_tokens=max_new_tokens
        )

    def _parse(self, budget: str | Budget | None) -> Budget:
        if budget is None:
            return self.budgets.largest
        if isinstance(budget, str):
            return Budget.parse(budget, self.config.plan)
        budget.check(self.config.plan)
        return budget

    def _gates(self, budget: Budget) -> tuple[bool, ...]:
        return budget.gates(self.config.plan)


@functools.partial(jax.jit, static_argnames=("model", "gates"))
def _logits(
    params: Params, batch: Batch, *, model: VLM, gates: tuple[bool, ...]
) -> Float[Array, "B T W"]:
    return model.apply({"params": params}, batch, gates).logits


def load(path: epath.PathLike) -> VisorModel:
    """Returns the network of the newest readable checkpoint under `path`.

    Args:
      path: a run's workdir, its `checkpoints` directory, or one step directory.

    Raises:
      ValueError: if there is no checkpoint, if it is damaged, half written or of
        another model than it says, or if its network does not read pages.
    """
    config = _config(read_metadata(path), path)
    loaded = load_checkpoint(path)
    params = {
        name: part
        for name, part in loaded.params.items()
        if not name.startswith(_TRAINING_ONLY)
    }
    directory = epath.Path(loaded.directory)
    check_fits(directory, "params", params, _abstract_params(config))
    budgets = BudgetSet.parse(loaded.metadata["budgets"], config.plan)
    tokenizer = _tokenizer(directory)
    if len(tokenizer) > config.decoder.vocab_size:
        raise ValueError(
            f"{path} has {config.decoder.vocab_size} output tokens but its tokenizer "
            f"{len(tokenizer)}: they are not of the same run."
        )
    return VisorModel(config, params, budgets, tokenizer, loaded.metadata)


def _config(metadata: dict[str, Any], path: epath.PathLike) -> VLMConfig:
    try:
        config = VLMConfig.from_dict(metadata["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not describe a network of this version: {error}"
        ) from error
    vision = config.vision
    if (vision.image_size, vision.patch_size) != (IMAGE_SIZE, PATCH):
        raise ValueError(
            f"{path} holds a network for images of {vision.image_size} pixels in "
            f"patches of {vision.patch_size}; so far only those that read the embedded "
            f"benchmark's pages ({IMAGE_SIZE} in patches of {PATCH}) can be asked."
        )
    return config


def _abstract_params(config: VLMConfig) -> Params:
    """Returns the shapes of all parameters that answering needs."""
    page = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    batch = single_question_batch(page, "ring", page_tokenizer())
    gates = Budget.all(config.plan).gates(config.plan)
    init = functools.partial(VLM(config).init, gates=gates)
    return jax.eval_shape(init, jax.random.key(0), batch)["params"]


def _tokenizer(step: epath.Path) -> Tokenizer:
    """Returns the tokenizer saved in the workdir, else that of the pages."""
    folder = Path(step).parents[1] / "tokenizer"
    return load_tokenizer(folder) if folder.is_dir() else page_tokenizer()
