"""Questions about pages as chat messages: what `ChatProcessor` is to real pictures.

A network of the embedded benchmark has no chat format. It takes one page and one
question of words that it knows, ended by ":"; the page comes first.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from visor_jax.data.buckets import Bucket, Buckets
from visor_jax.data.images.cut_image import CutImage, Cutter, cut_image
from visor_jax.data.images.read_image import ImageInput, read_image, read_square_image
from visor_jax.data.images.url_fetching import Fetch
from visor_jax.data.pages.forms import DIGITS, Form, forms_of
from visor_jax.data.pages.tokenizer import encode_question
from visor_jax.data.prompts.messages import (
    Message,
    media,
    part_counts,
    read_messages,
)
from visor_jax.data.prompts.processor import Processor, Tokenizer
from visor_jax.data.prompts.request import Images, Videos, image_list, video_list
from visor_jax.data.prompts.sample import Sample
from visor_jax.data.prompts.token_layout import Layout

_TEXT_LENGTHS = (8, 16, 32, 64)
# Of an answer, by default.
_NEW_TOKENS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class PageProcessor:
    """Everything that fixes the input of a network for pages.

    fetch: gets pages from the net (`url_fetching`); None to refuse their URLs.
    kind: of the pages, see `forms`. A picture of any size becomes a digit page,
      squashed to its square, or the tiles that show most of it.
    cut: makes crops and tokens of such tiles.
    """

    tokenizer: PreTrainedTokenizerBase
    fetch: Fetch | None = None
    kind: str = DIGITS
    cut: Cutter = cut_image

    def prompt(
        self,
        messages: Sequence[Message],
        *,
        images: Images = None,
        videos: Videos = None,
        room: int = 0,
    ) -> Sample:
        """Returns a question that the network is to answer.

        Args:
          images: one, made a page; None if the message carries it.
          room: has no meaning here, a page always leaves enough.

        Raises:
          ValueError: unless there are one page and one question, for words that the
            tokenizer does not know, and for an image that cannot be read.
        """
        messages = read_messages(messages)
        question, counts = _question(messages), part_counts(messages)
        pages = [
            *media(messages, "image", fetch=self.fetch),
            *(image_list(images) or ()),
        ]
        places = counts["image"]
        films = counts["video"] + len(video_list(videos) or ())
        if len(pages) != 1 or places > 1 or films:
            raise ValueError(
                f"This network answers questions about one page: got {len(pages)} "
                f"images for {places} places, and {films} videos."
            )
        tokens = np.array(encode_question(self.tokenizer, question), np.int32)
        crops, patch_index, key = self._picture(pages[0])
        return Sample(
            crops=crops,
            patch_index=patch_index,
            image_key=key,
            layout=Layout(
                tokens=tokens,
                text_positions=patch_index.count
                + np.arange(len(tokens), dtype=np.int32),
                image_positions=np.arange(patch_index.count, dtype=np.int32),
                targets=np.full(len(tokens), self.tokenizer.pad_token_id, np.int32),
                loss_mask=np.zeros(len(tokens), bool),
                media=(("image", 0),),
            ),
        )

    def buckets(self) -> Buckets:
        """Returns the shapes that questions are padded to."""
        shapes = (
            Bucket(
                crops=form.patch_index.crops,
                image_tokens=form.patch_index.count,
                text_tokens=length,
            )
            for form in self._forms
            for length in _TEXT_LENGTHS
        )
        images = self._forms[0].images
        return Buckets(shapes, images, pad_id=self.tokenizer.pad_token_id)

    @property
    def _forms(self) -> tuple[Form, ...]:
        return forms_of(self.kind)

    def _picture(self, image: ImageInput) -> CutImage:
        """Returns a picture as crops and image tokens."""
        form = self._forms[0]
        if form.patch_index.crops == 1:
            page = read_square_image(image, form.recipe.side, fetch=self.fetch)
            return CutImage(form.crops(page[None])[0], form.patch_index)
        return self.cut(read_image(image, fetch=self.fetch), form.images)


def _question(messages: Sequence[Message]) -> str:
    if len(messages) != 1 or messages[0]["role"] != "user":
        raise ValueError(
            "This network answers single questions: give one message of the user, not "
            f"{[message['role'] for message in messages]}."
        )
    content = messages[0]["content"]
    if isinstance(content, str):
        return content
    texts = [part["text"] for part in content if part["type"] == "text"]
    return " ".join(texts)


def page_processor(tokenizer: Tokenizer, kind: str = DIGITS) -> Processor:
    """Returns the processor of a network of the embedded benchmark."""
    prompts = PageProcessor(tokenizer=tokenizer, kind=kind)
    return Processor(
        prompts=prompts,
        buckets=prompts.buckets(),
        eos_ids=(tokenizer.eos_token_id,),
        pad_id=tokenizer.pad_token_id,
        new_tokens=_NEW_TOKENS,
    )
