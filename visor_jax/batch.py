"""What enters the model: the contract between the data pipeline and the network.

Image and text are two streams from the start. Host code has already removed the image
placeholder from the text and said of every token where it stands in the interleaved
sequence (its order), so the device never splices anything and every shape is static.

Several questions about one image share a row. Segment 0 is what all of them see (the
image, a system prompt); each question has a segment of its own:

    image      order  0 1 2 3 4 5      segments  0 0 0 0 0 0
    text       order  6 7 8  6 7 8 9   segments  1 1 1  2 2 2 2

A token attends to valid tokens that do not come after it and lie in segment 0 or in its
own segment (`visor_jax.ops.masks`).
"""

from typing import Any

import flax.struct

# Array fields hold NumPy arrays on the host and jax arrays inside the step.
Array = Any


@flax.struct.dataclass
class Batch:
    """One batch; every field has a leading batch axis.

    pixels: (B, C, h, w, 3) float32, normalised as the vision tower expects.
    image_token_index: (B, V) int32 into the C * P projected patches of the sample, row
      by row of each crop; C * P means the learned newline, where the network has one;
      anything under mask False is padding and must be 0. Or (B, V, 4), where a token is
      a weighted sum of patches.
    image_positions: (B, V) int32, the tokens' order: their index in the interleaved
      sequence. Rotary positions begin as it and may change (`models.decoder.streams`).
    image_mask: (B, V) bool, False for padding.
    tokens: (B, T) int32 input ids, image placeholders removed.
    text_positions: (B, T) int32, the tokens' order likewise.
    text_segments: (B, T) int32, 0 = seen by all, 1.. = one packed question each.
    text_mask: (B, T) bool, False for padding.
    targets: (B, T) int32, the token that should follow each input token.
    loss_mask: (B, T) bool, where a prediction is trained or scored.
    image_labels: (B, V) int32 class of what a token shows, -1 for none; only for the
      auxiliary reading loss, None where the data has no such labels.
    image_token_weights: (B, V, 4) float32 beside an index of that shape: images whose
      grid of patches was resized; 0 for padding. None beside a plain index.
    image_places: (B, V) int32, which of all tokens of its image each one is, where
      crops are left out of some row (`data.prompts.sample`); neighbours in memory
      need not be neighbours in the image then. None where all tokens are there.
    """

    pixels: Array
    image_token_index: Array
    image_positions: Array
    image_mask: Array
    tokens: Array
    text_positions: Array
    text_segments: Array
    text_mask: Array
    targets: Array
    loss_mask: Array
    image_labels: Array | None = None
    image_token_weights: Array | None = None
    image_places: Array | None = None

    @property
    def size(self) -> int:
        return self.tokens.shape[0]

    def map(self, function) -> "Batch":
        """Returns the batch with `function` applied to every array that is present."""
        fields = {k: getattr(self, k) for k in self.__dataclass_fields__}
        present = {k: function(v) for k, v in fields.items() if v is not None}
        return Batch(**present)
