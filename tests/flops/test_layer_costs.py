"""The formulas against sums done by hand, and what must hold for any network."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from visor_jax.budget import Budget
from visor_jax.flops import layer_costs
from visor_jax.flops.account import account
from visor_jax.flops.layer_costs import LayerCost
from visor_jax.layer_plan import LayerKind, LayerPlan
from visor_jax.models.config import AdapterConfig, DecoderConfig, VisionConfig
from visor_jax.models.variants import dense, mini

# Width 4 in two query heads of 2, one key/value head, MLP 3; adapter: 2 heads, 3 taps.
DECODER = DecoderConfig(
    vocab_size=5, width=4, mlp_width=3, num_heads=2, num_kv_heads=1, head_dim=2
)
ADAPTER = AdapterConfig(num_kv_heads=2, conv_kernel=3)
TEXT, IMAGE = 3, 10


def test_text_layer_by_hand() -> None:
    expected = LayerCost(
        query=2 * 3 * 4 * 4,
        key_value=2 * 3 * 4 * 2 * 2,
        attention=2 * (3 * 3) * 4 * 2,
        output=2 * 3 * 4 * 4,
        mlp=2 * 3 * 4 * 3 * 3,
    )
    assert layer_costs.text_layer(DECODER, text=TEXT) == expected
    assert expected.total == 96 + 96 + 144 + 96 + 216


def test_self_layer_by_hand() -> None:
    cost = layer_costs.self_layer(DECODER, text=TEXT, image=IMAGE, image_is_read=True)
    assert cost == layer_costs.text_layer(DECODER, text=13)


def test_self_layer_whose_image_nobody_reads_by_hand() -> None:
    cost = layer_costs.self_layer(DECODER, text=TEXT, image=IMAGE, image_is_read=False)
    text = layer_costs.text_layer(DECODER, text=TEXT)
    assert (cost.query, cost.output, cost.mlp) == (text.query, text.output, text.mlp)
    assert cost.key_value == 2 * 13 * 4 * 2 * 2
    assert cost.attention == 2 * (3 * 13) * 4 * 2


def test_cross_layer_by_hand() -> None:
    expected = LayerCost(
        adapter_query=2 * 3 * 4 * 4,
        adapter_key_value=2 * 10 * 4 * 4 * 2,
        adapter_convolution=2 * 10 * 4 * 3,
        adapter_attention=2 * (3 * 10) * 4 * 2,
        adapter_output=2 * 3 * 4 * 4,
    )
    cost = layer_costs.cross_layer(DECODER, ADAPTER, text=TEXT, image=IMAGE)
    assert cost == expected + layer_costs.text_layer(DECODER, text=TEXT)


def test_decoding_by_hand() -> None:
    cost = layer_costs.decode_layer(DECODER, context=7, self_image=10)
    one_token = layer_costs.text_layer(DECODER, text=1)
    assert cost.attention == 2 * 17 * 4 * 2
    assert cost.total - cost.attention == one_token.total - one_token.attention
    look = layer_costs.decode_adapter(DECODER, ADAPTER, image=10)
    assert look.adapter_key_value == look.adapter_convolution == 0
    assert look.total == 2 * 4 * 4 + 2 * 10 * 4 * 2 + 2 * 4 * 4


def test_tower_and_projector_by_hand() -> None:
    vision = VisionConfig(
        width=6, mlp_width=8, num_layers=2, num_heads=3, image_size=11, patch_size=5
    )
    tower = layer_costs.vision_tower(vision, crops=3)
    assert tower.patch_embedding == 3 * 2 * 4 * (5 * 5 * 3) * 6
    assert tower.projections == 3 * 2 * (4 * 2 * 4 * 6 * 6)
    assert tower.attention == 3 * 2 * (2 * 4 * 4 * 6 * 2)
    assert tower.mlp == 3 * 2 * (2 * 2 * 4 * 6 * 8)
    assert tower.total == sum(
        (tower.patch_embedding, tower.projections, tower.attention, tower.mlp)
    )
    projected = layer_costs.projector(vision, DECODER, crops=3)
    assert projected == 3 * 4 * 2 * (6 * 4 + 4 * 4)
    around = layer_costs.projector(vision, DECODER, crops=3, convolution=5)
    assert around == projected + 3 * 4 * 2 * (25 * 4 * 4)
    assert layer_costs.lm_head(DECODER, positions=2) == 2 * 2 * 4 * 5


@st.composite
def _plans(draw: st.DrawFn) -> LayerPlan:
    kinds = st.lists(st.sampled_from(LayerKind), min_size=1, max_size=8)
    return LayerPlan(tuple(draw(kinds)))


@given(
    plan=_plans(), text=st.integers(1, 400), image=st.integers(0, 2000), data=st.data()
)
@settings(max_examples=200, deadline=None)
def test_switching_a_layer_on_never_gets_cheaper(
    plan: LayerPlan, text: int, image: int, data: st.DataObject
) -> None:
    config = mini().replace(plan=plan, reading_layers=())
    order = data.draw(st.permutations(plan.self_layers))

    def cost(layers: list[int]) -> tuple[int, int]:
        budget = Budget(tuple(sorted(layers)))
        done = account(config, budget, text_tokens=text, image_tokens=image, crops=1)
        return done.llm_prefill, done.decode_per_token(text + 1)

    costs = [cost(order[:count]) for count in range(len(order) + 1)]
    for cheaper, dearer in itertools.pairwise(costs):
        assert cheaper[0] <= dearer[0]
        assert cheaper[1] <= dearer[1]


@given(text=st.integers(1, 400), image=st.integers(0, 2000))
@settings(max_examples=50, deadline=None)
def test_dense_is_the_dearest_prefill_of_an_image(text: int, image: int) -> None:
    """Adapters cost something too, so this needs an image longer than the text."""
    image += 2 * text
    config, network = mini(), dense(mini())
    sizes = {"text_tokens": text, "image_tokens": image, "crops": 1}
    largest = account(config, Budget.all(config.plan), **sizes)
    reference = account(network, Budget.all(network.plan), **sizes)
    assert largest.llm_prefill <= reference.llm_prefill
    assert largest.tower == reference.tower
