"""Looks: names, order and which crops of an image they mean."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from visor_jax.budget import Budget
from visor_jax.layer_plan import LayerPlan
from visor_jax.look import ALL, BASE, Crops, Look, parse_looks

PLAN = LayerPlan.build(20, cross=(0, 9), self_=(5, 11, 17))


@st.composite
def looks(draw):
    kind = draw(st.sampled_from(["all", "base", "count", "tiles", "best"]))
    tiles = tuple(sorted(draw(st.sets(st.integers(1, 30), min_size=1, max_size=5))))
    crops = {
        "all": ALL,
        "base": BASE,
        "count": Crops(len(tiles)),
        "tiles": Crops(len(tiles), tiles),
        "best": Crops(len(tiles), best=True),
    }[kind]
    layers = draw(st.sets(st.sampled_from(PLAN.self_layers)))
    return Look(crops, Budget(tuple(sorted(layers))))


def test_every_form_of_a_name() -> None:
    found = parse_looks(
        "base/sa0,all/sa2:5,17,base+2/sa1:11,base+2:1,4/sa0,1,best+3/all",
        PLAN,
    )
    assert found == (
        Look(Crops(0), Budget(())),
        Look(Crops(None), Budget((5, 17))),
        Look(Crops(2), Budget((11,))),
        Look(Crops(2, (1, 4)), Budget(())),
        # A budget alone: all crops.
        Look(Crops(None), Budget((11,))),
        Look(Crops(3, best=True), Budget((5, 11, 17))),
    )


@given(st.lists(looks(), min_size=1, max_size=4, unique=True))
def test_names_come_back_alone_and_in_lists(given_looks) -> None:
    for look in given_looks:
        assert Look.parse(look.name, PLAN) == look
        assert hash(Look.parse(str(look), PLAN)) == hash(look)
    joined = ",".join(look.name for look in given_looks)
    assert parse_looks(joined, PLAN) == tuple(given_looks)


@given(looks(), st.integers(0, 12))
def test_crops_of_an_image_are_its_own_with_the_base_view(look, crops) -> None:
    wanted = look.crops
    if wanted.best and wanted.count < crops - 1:
        with pytest.raises(ValueError, match="a network says when it"):
            wanted.of_image(crops)
        return
    found = wanted.of_image(crops)
    assert list(found) == sorted(set(found))
    assert set(found) <= set(range(crops))
    assert (0 in found) == (crops > 0)
    if wanted.count is None:
        assert len(found) == crops
        assert not wanted.exceeds(crops)
    elif wanted.tiles is None:
        # Base and so many, or all that there are.
        assert len(found) == min(crops, 1 + wanted.count)
        assert wanted.exceeds(crops) == (wanted.count > max(crops - 1, 0))
    else:
        assert set(found) - {0} == {t for t in wanted.tiles if t < crops}
        assert wanted.exceeds(crops) == any(t >= crops for t in wanted.tiles)


def test_looks_are_ordered_by_crops_and_then_by_layers() -> None:
    ascending = parse_looks(
        "base/sa0,base/sa3:5,11,17,base+1/sa0,base+2/sa0,best+1/sa0,base+2/sa1:5,all/sa0,sa1:17",
        PLAN,
    )
    assert tuple(sorted(reversed(ascending))) == ascending
    assert min(ascending).name == "base/sa0"
    assert max(ascending).name == "all/sa1:17"


def test_tiles_are_chosen_later_and_the_program_is_the_same() -> None:
    look = Look.parse("base+2/sa1:11", PLAN)
    chosen = Look(look.crops.choosing([7, 3]), look.budget)
    assert chosen.name == "base+2:3,7/sa1:11"
    assert chosen.unchosen == look == look.unchosen
    assert chosen.crops.unlisted == Crops(2)
    best = Look.parse("best+2/sa0", PLAN)
    assert best.unchosen == Look.parse("base+2/sa0", PLAN)
    assert best.crops.unlisted == best.crops
    with pytest.raises(ValueError, match="says 2 tiles and lists 1"):
        look.crops.choosing([3])


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("base", "'base/none'"),
        ("base+2", "no budget"),
        ("base/", "names no budget"),
        ("tiles/sa0", "Unknown crops 'tiles'.*'base\\+2'"),
        ("base+0/sa0", "write 'base'"),
        ("best+0/sa0", "write 'base'"),
        ("best+2", "no budget"),
        ("best+2:1,4/sa0", "Unknown crops"),
        ("base+-1/sa0", "Unknown crops"),
        ("base+2:1/sa0", "say 2 tiles but list 1"),
        ("base+2:4,1/sa0", "ascend from 1"),
        ("base+2:0,1/sa0", "ascend from 1.*base view"),
        ("base/sa1:4", "SELF layers of this model are \\[5, 11, 17\\]"),
        ("base/cheap", "Unknown budget 'cheap'"),
        ("all/base/sa0", "Unknown budget 'base/sa0'"),
        ("", "Unknown budget ''"),
    ],
)
def test_what_is_no_look_is_named(name, problem) -> None:
    with pytest.raises(ValueError, match=problem):
        Look.parse(name, PLAN)


def test_values_that_are_no_crops_and_lists_with_repeats() -> None:
    for count in (-1, 1.0, True):
        with pytest.raises(ValueError, match="whole number from 0"):
            Crops(count)
    for count, tiles in ((0, None), (None, None), (1, (2,))):
        with pytest.raises(ValueError, match="are counted, from 1 on"):
            Crops(count, tiles, best=True)
    with pytest.raises(ValueError, match="are no tiles"):
        Crops(1, (2.0,))
    with pytest.raises(ValueError, match="more than once"):
        parse_looks("sa0,all/none", PLAN)
    with pytest.raises(ValueError, match="at least one"):
        parse_looks([], PLAN)
