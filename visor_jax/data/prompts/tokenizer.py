"""Tokenizers as they lie beside checkpoints: that of the pages like any other.

Inference code does not need to know which kind a network was trained with.
"""

import os

from transformers import PreTrainedTokenizerFast

# The folder of a workdir in which tokenizer and processor files lie.
TOKENIZER = "tokenizer"


def load_tokenizer(folder: str | os.PathLike) -> PreTrainedTokenizerFast:
    """Returns the tokenizer that `save_pretrained(folder)` wrote."""
    return PreTrainedTokenizerFast.from_pretrained(folder)
