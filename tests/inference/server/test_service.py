"""What a server offers, by what its network has."""

import dataclasses
import gc

import jax
import pytest

from tests.inference.server import served
from visor_jax import serve
from visor_jax.inference.routing.router import HostRouter, PolicyRouter
from visor_jax.inference.server.api_errors import ApiError
from visor_jax.inference.server.server_settings import ServerSettings
from visor_jax.inference.server.service import budget_names, make_service
from visor_jax.inference.visor_model import VisorModel
from visor_jax.policy.network import Policy, PolicyConfig, new_policy

CHEAP, WHOLE = served.BUDGETS


def with_policy():
    """Returns the network with a policy that nobody has trained."""
    config = PolicyConfig(num_budgets=2, hidden_widths=(4,))
    params = new_policy(config, served.CONFIG.decoder.width, jax.random.key(0))
    policy = Policy(config=config, params=params, costs=(0.4, 1.0))
    return VisorModel(dataclasses.replace(served.model().network, policy=policy))


def test_a_network_with_a_policy_offers_its_choice():
    model = with_policy()
    assert budget_names(model) == [CHEAP, WHOLE, "auto"]
    service = make_service(model, served.SETTINGS, cost=2.0)
    assert isinstance(service.thread.engine.router, PolicyRouter)
    # Who says nothing gets what the server says, not what the policy chooses.
    assert service.settings.budget == WHOLE
    assert service.budgets == (WHOLE, CHEAP, "auto")


def test_a_network_without_one_does_not():
    service = make_service(served.model(), served.SETTINGS)
    assert isinstance(service.thread.engine.router, HostRouter)
    assert service.describe()["visor"]["budgets"] == [WHOLE, CHEAP]
    with pytest.raises(ValueError, match="needs a policy"):
        make_service(
            served.model(), dataclasses.replace(served.SETTINGS, budget="auto")
        )
    with pytest.raises(ValueError, match="There are: sa0, sa1:1"):
        make_service(served.model(), served.SETTINGS, budgets=["sa1:1", "sa9"])


def test_budgets_may_be_fewer_and_cascades_named():
    name = f"cascade:{CHEAP},{WHOLE}@0.5"
    settings = dataclasses.replace(served.SETTINGS, budget=CHEAP)
    service = make_service(served.model(), settings, budgets=[name])
    assert service.budgets == (CHEAP, name)
    assert list(service.thread.engine.cascades) == [name]
    names = {budget.name for budget in service.thread.engine.shapes.budgets}
    assert names == {CHEAP, WHOLE}


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("none,all", ["none", "all"]),
        ("sa0,sa2:1,3,auto", ["sa0", "sa2:1,3", "auto"]),
        ("cascade:sa0,sa2:1,3@0.8,all", ["cascade:sa0,sa2:1,3@0.8", "all"]),
        ("cascade,sa1:3", ["cascade", "sa1:3"]),
        ("", []),
    ],
)
def test_commas_of_a_name_stay_with_it(said, names):
    assert serve.names_of_list(said.split(",")) == names


def test_another_model_is_not_here():
    service = make_service(served.model(), served.SETTINGS)
    service.check_model("tiny")
    with pytest.raises(ApiError, match="no model 'gpt' here: ask 'tiny'"):
        service.check_model("gpt")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"most_requests": 0}, "most_requests=0 must be at least 1"),
        ({"seconds": 0.0}, "seconds=0.0 must be above 0"),
        ({"max_pixels": 10**9}, "max_pixels=1000000000 must be at most"),
        ({"api_key": " "}, "empty"),
    ],
)
def test_impossible_limits_are_refused(wrong, why):
    with pytest.raises(ValueError, match=why):
        ServerSettings(name="a", budget="all", **wrong)


def test_what_a_server_begins_with_is_no_garbage():
    before = gc.get_freeze_count()
    kept = [[] for _ in range(1000)]
    try:
        serve.keep_from_collector()
        assert gc.get_freeze_count() >= before + len(kept)
    finally:
        gc.unfreeze()


def test_commas_of_a_look_stay_with_it():
    said = "base,base+2:1,4,base+1"
    assert serve.looks_of_list(said.split(",")) == ["base", "base+2:1,4", "base+1"]
    assert serve.looks_of_list([]) == []
