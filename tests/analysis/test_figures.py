"""Layer drop and budgets on drawn pages, against the harness; what is drawn of them."""

import numpy as np
import pytest

from tests.evals import small
from visor_jax.analysis.figures import budgets, drop
from visor_jax.analysis.figures.drawing import kinds_drawn
from visor_jax.analysis.figures.registry import FIGURES, check_names
from visor_jax.analysis.study import Study
from visor_jax.budget import Budget
from visor_jax.evals import timing
from visor_jax.evals.harness import predict
from visor_jax.evals.pages.benchmark import PageBenchmark
from visor_jax.evals.report import style

PAGES = 3


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    network = small.network(small.answering_params(2))
    cache = tmp_path_factory.mktemp("pages")
    benchmark = PageBenchmark.make(PAGES, cache_dir=cache)
    budget = Budget.all(network.config.plan)
    return Study(network=network, benchmark=benchmark, budget=budget, batch_size=30)


@pytest.fixture(scope="module")
def predictions(study):
    return predict(study.network, study.benchmark)


def test_dropping_layers_is_what_the_harness_scores_without_them(study, predictions):
    found = drop.content(study)
    none, full = (predictions.main_scores[row].mean() for row in (0, 1))
    assert found["layers"] == ["cross", "self", "cross"]
    assert found["full"]["all"]["mean"] == [pytest.approx(full)]
    assert found["full"]["all"]["questions"] == 10 * PAGES
    # The only SELF layer without both is the budget with nothing on.
    both = found["one"]["both"]["all"]["mean"]
    assert both[1] == pytest.approx(none)
    assert none != full
    # What is never refined cannot be frozen.
    frozen = found["one"]["frozen"]["all"]["mean"]
    assert [frozen[0], frozen[2]] == [pytest.approx(full)] * 2
    # From the first layer on, what nobody sees need not be refined.
    unseen, both = (
        found["from"][mode]["all"]["mean"][0] for mode in ("unseen", "both")
    )
    assert unseen == pytest.approx(both)
    assert list(found["full"])[:3] == ["all", "easy", "hard"]


def test_equal_choices_of_layers_are_one():
    ways = ("cross", "self", "text", "off", "read", "self")
    found = drop.choices(ways)
    assert len(found) == 2 * 3 * 6
    assert found["one", "both", 1] == (frozenset({1}), frozenset({1}))
    # Nobody reads what the last layer makes of the image.
    assert found["one", "frozen", 5] == (frozenset(), frozenset())
    assert found["from", "unseen", 2] == (frozenset(), frozenset({4, 5}))
    for mode in drop.MODES:
        assert found["one", mode, 2] == found["one", mode, 3]
    assert len(set(found.values())) < 20


def test_budgets_are_scored_by_the_harness(study, predictions, monkeypatch):
    monkeypatch.setattr(
        timing,
        "prefill_programs",
        lambda network, budgets, batch: {
            budget: lambda: np.zeros(1) for budget in budgets
        },
    )
    found = budgets.content(study)
    assert found["budgets"] == ["sa0", "sa1:1"]
    assert found["llm_prefill_flops"] == sorted(found["llm_prefill_flops"])
    scores = predictions.main_scores
    assert found["score"]["all"]["mean"] == pytest.approx(scores.mean(axis=1).tolist())
    less = found["minus_full"]["all"]["mean"]
    assert less == pytest.approx([scores[0].mean() - scores[1].mean(), 0])
    cheapest = found["cheapest_right"]["all"]
    assert cheapest["sa0"] == pytest.approx(scores[0].mean())
    assert cheapest["sa1:1"] == pytest.approx((scores[1] > scores[0]).mean())
    assert sum(cheapest.values()) == pytest.approx(1)
    assert found["auto"] is None
    assert len(found["ms"]) == 2


def test_the_cheapest_right_budget():
    scores = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0], [0.5, 0, 1.0]])
    assert budgets.cheapest_right(scores).tolist() == [1, 0, 3, 2]


def means(*names, length=3):
    values = {"mean": [0.5] * length, "low": [None] * length, "high": [0.6] * length}
    return {name: {**values, "questions": 4} for name in names}


def test_few_kinds_are_drawn_each_and_of_many_the_groups():
    assert [kind for kind, _, _ in kinds_drawn(means("all"))] == ["all"]
    few = means("all", "a", "b")
    assert [kind for kind, _, _ in kinds_drawn(few)] == ["a", "b"]
    many = means("all", "easy", "hard", *"abcdefgh")
    many["all"]["questions"] = 8
    assert [kind for kind, _, _ in kinds_drawn(many)] == ["easy", "hard"]
    loose = means("all", *"abcdefgh")
    loose["all"]["questions"] = 32
    assert [kind for kind, _, _ in kinds_drawn(loose)] == ["all"]


def test_every_figure_is_drawn_and_again_to_the_same_bytes(tmp_path):
    layers = ["cross", "self", "text"]
    kinds = means("all", "easy", "hard")
    wide = means("all", "easy", length=16)
    of_layer = {name: kinds for name in ("share", "relative", "share_of_text", "added")}
    shares = {"all": {"sa0": 0.5, "sa1:1": 0.25, "none right": 0.25}}
    contents = {
        "attention": {"layers": layers, **of_layer},
        "cka": {"layers": layers, "states": 4, "cka": wide},
        "drop": {
            "layers": layers,
            "full": means("all", "easy", length=1),
            **{span: {mode: kinds for mode in drop.MODES} for span in drop.SPANS},
        },
        "contribution": {"layers": layers, "frozen": kinds, "unseen": kinds},
        "budgets": {
            **{"budgets": ["sa0", "sa1:1", "all"], "ms": [1.0, 2.0, 3.0]},
            "llm_prefill_flops": [10, 20, 30],
            **{"score": kinds, "minus_full": kinds},
            **{"cheapest_right": shares, "auto": shares},
        },
    }
    assert contents.keys() == FIGURES.keys()
    for name, content in contents.items():
        drawn = FIGURES[name].draw({"pages": content})
        style.save_svg(drawn, tmp_path / f"{name}.svg")
        assert "pages" in (tmp_path / f"{name}.svg").read_text()
    again = FIGURES["cka"].draw({"pages": contents["cka"]})
    style.save_svg(again, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "cka.svg").read_bytes()


def test_unknown_names_are_told_with_the_nearest():
    check_names(["cka", "drop"], list(FIGURES), "figures")
    with pytest.raises(ValueError, match=r"no 'attenton' \(nearest: attention\)"):
        check_names(["attenton"], list(FIGURES), "figures")
    with pytest.raises(ValueError, match="cka more than once"):
        check_names(["cka", "cka"], list(FIGURES), "figures")
    with pytest.raises(ValueError, match="--figures is empty"):
        check_names([], list(FIGURES), "figures")
