"""One raw sample: a conversation, and the bytes of its images as they were encoded.

On disk it is two records, so that whoever counts tokens reads no pictures:

    text    {id, source, turns: [[role, text], ...], sizes: [[h, w], ...], digests,
             untrained: [number of a turn, ...] where there are any}
    images  [bytes, ...]

both as msgpack. Nothing is resized, tokenised or rewritten: that is left to training,
which may do it in one way today and in another tomorrow.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import msgpack

from visor_jax.data.prompts.chat_template import holds_special_text

_DIGEST_BYTES = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversation:
    """What was said, and what there is to know of the images without opening them.

    id: as in the source; may be empty. source: of the sample ("data_source" of
    LLaVA-OneVision). turns: (role, text) with roles of `chat_template.ROLES`, places of
    images in the texts. untrained: numbers of the turns that have no loss, whoever says
    them. image_sizes: (height, width) in pixels, upright.
    image_digests: 16 bytes each, equal for equal files.
    """

    id: str
    source: str
    turns: tuple[tuple[str, str], ...]
    image_sizes: tuple[tuple[int, int], ...] = ()
    image_digests: tuple[bytes, ...] = ()
    untrained: tuple[int, ...] = ()

    @property
    def has_special_text(self) -> bool:
        """Whether a turn has in it what looks like a special token of a chat."""
        return any(holds_special_text(text) for _, text in self.turns)

    def to_bytes(self) -> bytes:
        """Returns the text record."""
        fields = {
            "id": self.id,
            "source": self.source,
            "turns": self.turns,
            "sizes": self.image_sizes,
            "digests": self.image_digests,
        }
        if self.untrained:
            fields["untrained"] = self.untrained
        return msgpack.packb(fields)

    @classmethod
    def from_bytes(cls, record: bytes) -> "Conversation":
        """Returns the conversation of a text record.

        Raises:
          ValueError: for bytes that are none.
        """
        try:
            fields = msgpack.unpackb(record)
            return cls(
                id=fields["id"],
                source=fields["source"],
                turns=tuple((role, text) for role, text in fields["turns"]),
                image_sizes=tuple((h, w) for h, w in fields["sizes"]),
                image_digests=tuple(fields["digests"]),
                untrained=tuple(fields.get("untrained", ())),
            )
        # msgpack has a class of its own for every kind of damage.
        except Exception as error:
            raise ValueError(f"no text record: {error!r}") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawSample:
    """A conversation with its images, encoded."""

    conversation: Conversation
    images: tuple[bytes, ...] = ()


def images_to_bytes(images: Sequence[bytes]) -> bytes:
    """Returns the image record."""
    return msgpack.packb(list(images))


def images_from_bytes(record: bytes) -> tuple[bytes, ...]:
    """Returns the encoded images of an image record.

    Raises:
      ValueError: for bytes that are none.
    """
    try:
        images = tuple(msgpack.unpackb(record))
    except Exception as error:  # As above.
        raise ValueError(f"no image record: {error!r}") from error
    if not all(isinstance(image, bytes) for image in images):
        raise ValueError("no image record: an image is not bytes")
    return images


def image_digest(image: bytes) -> bytes:
    """Returns 16 bytes that are equal for equal files."""
    return hashlib.blake2b(image, digest_size=_DIGEST_BYTES).digest()
