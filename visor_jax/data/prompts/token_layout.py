"""The two streams of a prompt: text without placeholders, and places for its images.

A placeholder stands for all tokens of its image. It is taken out of the text, and both
streams get the position ids of the sequence in which its tokens stand in its place. An
image of 3 tokens (so `qwen_1_5` has it, with the loss on the answer):

    text       user \\n   <image>   \\n  Why  ?  assistant \\n  So  .  <|im_end|>
    tokens     user \\n             \\n  Why  ?  assistant \\n  So  .  <|im_end|>
    positions  0    1              5   6    7  8         9   10  11 12
    image             2  3  4
    loss_mask  0    0              0   0    0  0         1   1   1  0

The loss mask lies where a token is predicted, one before the token itself. What follows
an image directly is predicted by an image token; there are no logits for those, so it
is not trained (LLaVA trains the line break there).
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32
from transformers import PreTrainedTokenizerBase

from visor_jax.data.prompts.chat_template import END, START
from visor_jax.data.prompts.messages import IMAGE, PLACES, VIDEO
from visor_jax.data.prompts.piece import Piece
from visor_jax.data.prompts.prompt_tokens import check_fast, tokenise

# What is trained. "assistant": the assistant's words and the token that ends its turn.
# "llava_next": its whole turns, headers included, and every line break, start and end
# of a turn anywhere, as `preprocess_qwen` of LLaVA-NeXT.
SUPERVISIONS = ("none", "assistant", "llava_next")


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """The text fields of a sample, each (T,), and where its images stand.

    Fields as in `visor_jax.batch.Batch`. media: ("image" or "video", its number among
      its kind) in the order of the image stream. text_segments: None where all tokens
      are of segment 0.
    """

    tokens: Int32[np.ndarray, "T"]
    text_positions: Int32[np.ndarray, "T"]
    image_positions: Int32[np.ndarray, "V"]
    targets: Int32[np.ndarray, "T"]
    loss_mask: Bool[np.ndarray, "T"]
    media: tuple[tuple[str, int], ...]
    text_segments: Int32[np.ndarray, "T"] | None = None

    @property
    def length(self) -> int:
        """Tokens of both streams."""
        return len(self.tokens) + len(self.image_positions)

    @property
    def segments(self) -> Int32[np.ndarray, "T"]:
        """The segment of every text token."""
        if self.text_segments is None:
            return np.zeros(len(self.tokens), np.int32)
        return self.text_segments

    @property
    def shared_tokens(self) -> int:
        """Text tokens before the end of the last image; 0 without images."""
        if not len(self.image_positions):
            return 0
        return int(np.sum(self.text_positions < self.image_positions.max()))


def lay_out(
    pieces: Sequence[Piece],
    tokenizer: PreTrainedTokenizerBase,
    *,
    images: Sequence[int] = (),
    videos: Sequence[int] = (),
    supervision: str = "none",
    max_length: int | None = None,
    room: int = 0,
) -> Layout:
    """Returns both streams of a prompt.

    Args:
      pieces: from `chat_template.render`.
      tokenizer: a fast one that knows the placeholders as single tokens.
      images, videos: tokens of each, in the order of their placeholders.
      supervision: one of SUPERVISIONS.
      max_length: the context of the network, image tokens included.
      room: tokens of it that an answer needs.

    Raises:
      ValueError: if placeholders and images do not match, the prompt is longer than the
        context, or training would have nothing to learn from.
    """
    if supervision not in SUPERVISIONS:
        raise ValueError(f"{supervision=} is not one of {SUPERVISIONS}.")
    place_ids = placeholder_ids(tokenizer)
    ids, trained = _tokenise(pieces, tokenizer, supervision)
    counts = {"image": list(images), "video": list(videos)}
    _check_places(ids, place_ids, counts, pieces)
    layout = _interleave(ids, trained, place_ids, counts)
    if max_length is not None and layout.length + room > max_length:
        answer = f" and the answer up to {room}" if room else ""
        raise ValueError(
            f"The prompt has {layout.length} tokens ({len(layout.tokens)} of text, "
            f"{len(layout.image_positions)} of images){answer}, the context "
            f"{max_length}: shorten the text, or give fewer or smaller images."
        )
    if supervision != "none" and not layout.loss_mask.any():
        raise ValueError("Nothing to train: the conversation has no assistant's words.")
    return layout


def placeholder_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Returns {"image": id, "video": id}; the video's only where it is known.

    Raises:
      ValueError: if the tokenizer is slow or does not know the image's placeholder.
    """
    check_fast(tokenizer)
    vocabulary = tokenizer.get_added_vocab()
    if IMAGE not in vocabulary:
        raise ValueError(
            f"The tokenizer does not know {IMAGE!r} as a token of its own: it is not "
            "that of a LLaVA-OneVision checkpoint."
        )
    known = {"image": vocabulary[IMAGE], "video": vocabulary.get(VIDEO)}
    return {kind: id_ for kind, id_ in known.items() if id_ is not None}


def _tokenise(
    pieces: Sequence[Piece], tokenizer: PreTrainedTokenizerBase, supervision: str
) -> tuple[Int32[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Returns the ids of the whole text and which of them are trained."""
    tokens = tokenise(pieces, tokenizer)
    ids, starts, ends = tokens.ids, tokens.starts, tokens.ends
    if supervision == "none":
        return ids, np.zeros(len(ids), bool)
    trained, left_out = np.zeros(len(ids), bool), np.zeros(len(ids), bool)
    place = 0
    for piece in pieces:
        end = place + len(piece.text)
        # A token that reaches into the stretch counts as part of it.
        inside = (ends > place) & (starts < end)
        if not piece.trained:
            left_out |= inside
        elif piece.answer or (supervision == "llava_next" and piece.turn):
            trained |= inside
        place = end
    if supervision == "llava_next":
        everywhere = [_single_id(tokenizer, text) for text in ("\n", START, END)]
        trained |= np.isin(ids, everywhere)
    return ids, trained & ~left_out


def _single_id(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ValueError(f"The tokenizer has no single token for {text!r}: {ids}.")
    return ids[0]


def _check_places(
    ids: Int32[np.ndarray, "n"],
    place_ids: dict[str, int],
    counts: dict[str, Any],
    pieces: Sequence[Piece],
) -> None:
    for kind, given in counts.items():
        places = int(np.sum(ids == place_ids[kind])) if kind in place_ids else 0
        if places == len(given):
            continue
        token = PLACES[kind]
        words = any(piece.given and token in piece.text for piece in pieces)
        hint = (
            f" ({token!r} inside a text part is text like any other: write the place "
            f"as a part {{'type': {kind!r}}})"
        )
        raise ValueError(
            f"The messages have {places} places for {kind}s ({token!r}) but "
            f"{len(given)} {kind}s were given: they must match one to one"
            f"{hint if words else ''}."
        )


def _interleave(
    ids: Int32[np.ndarray, "n"],
    trained: Bool[np.ndarray, "n"],
    place_ids: dict[str, int],
    counts: dict[str, list[int]],
) -> Layout:
    kind_of = {id_: kind for kind, id_ in place_ids.items()}
    is_place = np.isin(ids, list(kind_of))
    numbers = {kind: itertools.count() for kind in counts}
    kinds = [kind_of[int(i)] for i in ids[is_place]]
    media = tuple((kind, next(numbers[kind])) for kind in kinds)
    lengths = np.ones(len(ids), np.int32)
    lengths[is_place] = [counts[kind][number] for kind, number in media]
    starts = np.cumsum(lengths, dtype=np.int32) - lengths
    image_positions = [
        np.arange(start, start + length, dtype=np.int32)
        for start, length in zip(starts[is_place], lengths[is_place], strict=True)
    ]
    tokens, positions = ids[~is_place], starts[~is_place]
    # Only the next token of the whole sequence is predicted, and only if it is text.
    follows = np.append(positions[1:] == positions[:-1] + 1, False)[: len(tokens)]
    targets = np.append(tokens[1:], tokens[-1:])
    return Layout(
        tokens=tokens,
        text_positions=positions,
        image_positions=np.concatenate([*image_positions, np.zeros(0, np.int32)]),
        targets=targets,
        loss_mask=follows & np.append(trained[~is_place][1:], False)[: len(tokens)],
        media=media,
    )
