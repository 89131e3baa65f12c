"""Between a user and a network: messages become samples, tokens become text.

processor = read_processor(config, folder)  # or page_processor(tokenizer)
sample = processor.sample(Request("What is this?", images=["photo.jpg"]), room=256)
batch = processor.batch(sample)
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from visor_jax.batch import Batch
from visor_jax.data.buckets import Buckets
from visor_jax.data.prompts.messages import Message
from visor_jax.data.prompts.request import (
    Images,
    Request,
    Videos,
)
from visor_jax.data.prompts.sample import Sample

# A Hugging Face tokenizer; `visor_jax.data` alone imports that package.
Tokenizer = Any

# What decoders put in place of bytes that are no character yet.
_INCOMPLETE = "\ufffd"


class PromptProcessor(Protocol):
    """From messages to a sample: `ChatProcessor` or `PageProcessor`."""

    tokenizer: Tokenizer

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
    new_tokens: of an answer, by default.
    """

    prompts: PromptProcessor
    buckets: Buckets
    eos_ids: tuple[int, ...]
    pad_id: int
    new_tokens: int

    @property
    def tokenizer(self) -> Tokenizer:
        return self.prompts.tokenizer

    def sample(self, request: Request, *, room: int) -> Sample:
        """Returns the request as the network takes it.

        Args:
          room: tokens of the answer that the context must have room for.

        Raises:
          ValueError: for an image that cannot be read, messages of another form, places
            that do not match the images, or a prompt that is too long.
        """
        return self.prompts.prompt(
            request.messages(),
            images=request.images,
            videos=request.videos,
            room=room,
        )

    def batch(self, sample: Sample) -> Batch:
        """Returns the one-row batch of a sample, in the smallest bucket."""
        return self.buckets.batch([sample], self.buckets.choose(sample))

    def text(self, tokens: Sequence[int]) -> str:
        """Returns the answer that these tokens are, without special ones."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    def pieces(self, tokens: Iterable[int]) -> Iterator[str]:
        """Yields the text of an answer as its tokens come; joined, it is `text`.

        Characters of several tokens come when they are complete.
        """
        seen: list[int] = []
        given = ""
        for token in tokens:
            if token in self.eos_ids:
                break
            seen.append(token)
            text = self.text(seen)
            if text.endswith(_INCOMPLETE):
                continue
            yield text[len(given) :]
            given = text
        rest = self.text(seen)[len(given) :]
        if rest:
            yield rest
