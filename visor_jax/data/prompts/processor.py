"""Between a user and a network: messages become samples, tokens become text.

processor = read_processor(config, folder)  # or page_processor(tokenizer)
sample = processor.sample(Request("What is this?", images=["photo.jpg"]), room=256)
batch = processor.batch(sample)
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from visor_jax.batch import Batch
from visor_jax.data.buckets import Buckets
from visor_jax.data.images.cut_image import Cutter
from visor_jax.data.images.url_fetching import Fetch
from visor_jax.data.look_buckets import for_any_look
from visor_jax.data.prompts.answer_text import AnswerText, TextPieces
from visor_jax.data.prompts.looking import CropRule, Looking
from visor_jax.data.prompts.messages import Message
from visor_jax.data.prompts.request import (
    Images,
    Request,
    Videos,
)
from visor_jax.data.prompts.sample import Sample
from visor_jax.look import Crops

# A Hugging Face tokenizer; `visor_jax.data` alone imports that package.
Tokenizer = Any


class PromptProcessor(Protocol):
    """From messages to a sample: `ChatProcessor` or `PageProcessor`."""

    tokenizer: Tokenizer
    cut: Cutter

    def prompt(
        self,
        messages: Sequence[Message],
        *,
        images: Images = None,
        videos: Videos = None,
        room: int = 0,
    ) -> Sample: ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Processor:
    """Everything about text and pictures that a checkpoint fixes.

    prompts: makes samples of messages. eos_ids: any of them ends an answer.
    new_tokens: of an answer, by default. looking: which crops of an image are looked
    at; None for all of them.
    """

    prompts: PromptProcessor
    buckets: Buckets
    eos_ids: tuple[int, ...]
    pad_id: int
    new_tokens: int
    looking: Looking | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        return self.prompts.tokenizer

    def fetching(self, fetch: Fetch | None) -> "Processor":
        """Returns the processor that gets images and clips of URLs so; None refuses."""
        prompts = dataclasses.replace(self.prompts, fetch=fetch)
        return dataclasses.replace(self, prompts=prompts)

    def cutting_with(self, cut: Cutter) -> "Processor":
        """Returns the processor that cuts pictures so, e.g. by `KeptCuts`."""
        prompts = dataclasses.replace(self.prompts, cut=cut)
        return dataclasses.replace(self, prompts=prompts)

    def sample(self, request: Request, *, room: int) -> Sample:
        """Returns the request as the network takes it.

        Args:
          room: tokens of the answer that the context must have room for.

        Raises:
          ValueError: for an image that cannot be read, messages of another form, places
            that do not match the images, or a prompt that is too long.
        """
        whole = self.prompts.prompt(
            request.messages(),
            images=request.images,
            videos=request.videos,
            room=room,
        )
        return whole if self.looking is None else self.looking.sample(whole)

    def looking_at(self, crops: Crops, rule: CropRule) -> "Processor":
        """Returns the processor that shows the network these crops of an image."""
        per_crop = self.buckets.patches_per_crop
        looking = Looking(crops=crops, rule=rule, patches_per_crop=per_crop)
        buckets = for_any_look(self.buckets)
        return dataclasses.replace(self, buckets=buckets, looking=looking)

    def batch(self, sample: Sample) -> Batch:
        """Returns the one-row batch of a sample, in the smallest bucket."""
        return self.buckets.batch([sample], self.buckets.choose(sample))

    def text(self, tokens: Sequence[int]) -> str:
        """Returns the answer that these tokens are, without special ones."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    def text_before(self, tokens: Sequence[int], stop: Sequence[str]) -> str:
        """Returns the text before the first stop string."""
        return "".join(self.pieces(tokens, stop=stop)) if stop else self.text(tokens)

    def pieces(
        self, tokens: Iterable[int], *, stop: Sequence[str] = ()
    ) -> Iterator[str]:
        """Yields the text of an answer as its tokens come; joined, it is `text`.

        Characters of several tokens come when they are complete.

        Args:
          stop: texts that end the answer; what may be the beginning of one comes when
            it is known to be none. No token is taken after one of them.
        """
        answer = self.answer_text(stop)
        for token in tokens:
            if token in self.eos_ids:
                break
            piece = answer.add(token)
            if piece is not None:
                yield piece
            if answer.is_stopped:
                return
        rest = answer.rest()
        if rest:
            yield rest

    def answer_text(self, stop: Sequence[str] = ()) -> AnswerText:
        """Returns what gives the text of an answer while its tokens come."""
        return AnswerText(TextPieces(self.text, skipped=self._skipped), stop)

    @functools.cached_property
    def _skipped(self) -> frozenset[int]:
        """Tokens that `text` leaves out."""
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        return frozenset(i for i, token in added.items() if token.special)
