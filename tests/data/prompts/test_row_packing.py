"""Rows of several conversations: the drawn example, and logits as alone."""

import dataclasses

import numpy as np
import pytest

from tests import tiny, tolerances
from tests.data.conversations import conversation_set
from visor_jax.data.images.patch_index import PatchIndex
from visor_jax.data.prompts.row_packing import packed
from visor_jax.data.prompts.sample import Sample
from visor_jax.data.prompts.token_layout import Layout


def conversation(positions, tokens, images):
    """Returns the layout of a conversation with images at these positions."""
    tokens = np.array(tokens, np.int32)
    return Layout(
        tokens=tokens,
        text_positions=np.array(positions, np.int32),
        image_positions=np.array(images, np.int32),
        targets=tokens + 1,
        loss_mask=tokens > 20,
        media=(),
    )


def row_of(layout):
    nothing = np.zeros((0, 2, 2, 3), np.float32)
    return Sample(crops=nothing, patch_index=PatchIndex.concat([], 1), layout=layout)


# Two tokens before the image, as the module draws it.
DRAWN = [
    conversation([0, 1, 5, 6, 7], [8, 9, 21, 22, 23], [2, 3, 4]),
    conversation([0, 1, 5, 6], [8, 9, 24, 25], [2, 3, 4]),
    conversation([0, 1, 5], [8, 9, 26], [2, 3, 4]),
]
# One token before the first image and one between the two.
TWO_IMAGES = [
    conversation([0, 2, 5], [8, 9, 21], [1, 3, 4]),
    conversation([0, 2, 5, 6], [8, 9, 22, 23], [1, 3, 4]),
]
TEXT = [conversation(range(n), range(21, 21 + n), []) for n in (2, 1, 2)]


@pytest.mark.parametrize(
    ("layouts", "tokens", "positions", "segments"),
    [
        (
            DRAWN,
            [8, 9, 21, 22, 23, 24, 25, 26],
            [0, 1, 5, 6, 7, 5, 6, 5],
            [0, 0, 1, 1, 1, 2, 2, 3],
        ),
        (TWO_IMAGES, [8, 9, 21, 22, 23], [0, 2, 5, 5, 6], [0, 0, 1, 2, 2]),
        (TEXT, [21, 22, 21, 21, 22], [0, 1, 0, 0, 1], [1, 1, 2, 3, 3]),
        (DRAWN[:1], [8, 9, 21, 22, 23], [0, 1, 5, 6, 7], [0] * 5),
    ],
)
def test_conversations_lie_behind_what_they_share(layouts, tokens, positions, segments):
    at_once = packed(row_of(layouts[0]), layouts[1:])
    one_by_one = row_of(layouts[0])
    for each in layouts[1:]:
        one_by_one = packed(one_by_one, [each])
    for found in (at_once.layout, one_by_one.layout):
        assert found.tokens.tolist() == tokens
        assert found.text_positions.tolist() == positions
        assert found.segments.tolist() == segments
        assert found.targets.tolist() == [token + 1 for token in tokens]
        assert found.loss_mask.tolist() == [token > 20 for token in tokens]
        np.testing.assert_array_equal(found.image_positions, layouts[0].image_positions)


@pytest.mark.parametrize(
    "other",
    [
        conversation([0, 1, 5], [8, 9, 21], [2, 3]),
        conversation([0, 1, 5], [8, 7, 21], [2, 3, 4]),
        conversation([0, 1], [8, 9], []),
    ],
)
def test_what_is_not_shared_is_refused(other):
    with pytest.raises(ValueError, match="can share a row"):
        packed(row_of(DRAWN[0]), [DRAWN[1], other])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    return conversation_set.opened(conversation_set.draw(folder), folder)


def raw_samples(data, chosen):
    """Returns two raw samples for which `chosen` (crops, image tokens) is true."""
    numbers = np.flatnonzero(chosen(data.lengths.crops, data.lengths.image_tokens))
    found = [data.samples.find(int(number)) for number in numbers[:2]]
    return [each.sample(row) for each, row in found]


def about_one_image(data):
    """Returns two raw samples about the same image, which say different things."""
    raw, _ = raw_samples(data, lambda crops, tokens: (crops > 1) & (tokens > 10))
    turns = (("user", "And what\n<image> is it?"), ("assistant", "A picture."))
    conversation = dataclasses.replace(raw.conversation, turns=turns)
    return [raw, dataclasses.replace(raw, conversation=conversation)]


def test_who_shares_a_row_gets_the_logits_it_gets_alone(data):
    pairs = [raw_samples(data, lambda crops, _: crops == 0), about_one_image(data)]
    rows, config = [], conversation_set.NETWORK
    for raws in pairs:
        alone = [data.processor.sample(raw) for raw in raws]
        other = data.processor.layout(raws[1].conversation)
        rows += [*alone, packed(alone[0], [other])]
    bucket = next(b for b in data.buckets.all if all(map(b.holds, rows)))
    batch = data.buckets.batch(rows, bucket)
    output = tiny.forward_static(
        tiny.params_of(config),
        tiny.on_device(batch),
        config=config,
        gates=tiny.all_on(config),
    )
    logits = np.asarray(output.logits)
    for first in (0, 3):
        shared = rows[first].layout.shared_tokens
        assert (shared > 0) == (first == 3)
        start = shared
        for alone in (first, first + 1):
            length = len(rows[alone].layout.tokens)
            end = start + length - shared
            np.testing.assert_allclose(
                logits[first + 2, start:end],
                logits[alone, shared:length],
                **tolerances.REORDERED,
            )
            for name in ("tokens", "loss_mask", "text_positions"):
                values = getattr(batch, name)
                np.testing.assert_array_equal(
                    values[first + 2, start:end], values[alone, shared:length]
                )
            start = end
        np.testing.assert_allclose(
            logits[first + 2, :shared], logits[first, :shared], **tolerances.REORDERED
        )


def test_other_pictures_or_another_text_before_them_do_not_share_a_row(data):
    one, other = raw_samples(data, lambda crops, tokens: tokens > 10)
    text, _ = raw_samples(data, lambda crops, _: crops == 0)
    with pytest.raises(ValueError, match="can share a row"):
        packed(data.processor.sample(one), [data.processor.sample(text).layout])
    lengths = [
        data.processor.lengths(raw.conversation) for raw in about_one_image(data)
    ]
    assert lengths[0].group == lengths[1].group > 0
    briefly = (("system", "Be brief."), *one.conversation.turns)
    conversation = dataclasses.replace(one.conversation, turns=briefly)
    groups = {data.processor.lengths(c).group for c in (conversation, one.conversation)}
    assert len(groups | {data.processor.lengths(other.conversation).group}) == 3
