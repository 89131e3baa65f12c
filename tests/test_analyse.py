"""`python -m visor_jax.analyse`: figures, numbers, mistakes that cost no network."""

import json

import pytest

from tests import own_flags
from tests.evals.benchmarks import made_up
from tests.inference import chat_run, page_run
from visor_jax import analyse
from visor_jax.analysis.figures.registry import FIGURES
from visor_jax.evals.benchmarks.registry import BENCHMARKS


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return page_run.save(tmp_path_factory.mktemp("run"), page_run.parameters())


@pytest.fixture
def refusal(capsys, monkeypatch):
    """Calls the command with no network to load, and returns what it says."""

    def loaded(*_, **__):
        raise AssertionError("a network was loaded")

    def refused(*arguments):
        monkeypatch.setattr(analyse, "open_network", loaded)
        with pytest.raises(SystemExit) as stopped:
            own_flags.call(analyse, *arguments)
        assert stopped.value.code == 2
        return capsys.readouterr().err

    return refused


def test_pages_have_figures_and_numbers(run, tmp_path, capsys):
    out = tmp_path / "out"
    names = ("attention", "cka", "contribution")
    own_flags.call(
        analyse,
        *(f"--checkpoint={run}", f"--figures={','.join(names)}", "--limit=10"),
        *("--budget=sa1:1", f"--out={out}", "--rows=16"),
    )
    assert str(out / "analysis.json") in capsys.readouterr().out
    numbers = json.loads((out / "analysis.json").read_text())
    assert numbers["budget"] == "sa1:1"
    assert numbers["benchmarks"]["pages"]["pages"] == 1
    assert numbers["benchmarks"]["pages"]["errors"] == {}
    assert tuple(numbers["figures"]) == names
    for name in names:
        assert (out / f"{name}.svg").read_text().startswith("<?xml")
        found = numbers["figures"][name]["pages"]
        assert found["layers"] == ["cross", "self", "off"]
    share = numbers["figures"]["attention"]["pages"]["share"]["all"]
    assert share["questions"] == 10
    assert share["mean"][0] is None
    assert 0 < share["mean"][1] < 1
    assert share["mean"][2] == 0
    # Nobody reads what the only layer that is on makes of the image.
    frozen = numbers["figures"]["contribution"]["pages"]["frozen"]["all"]["mean"]
    assert frozen == [0, 0, 0]


@pytest.mark.parametrize(
    "figures",
    [("attention",), pytest.param(tuple(FIGURES), marks=pytest.mark.slow)],
)
def test_a_network_of_crops_answers_a_public_benchmark(tmp_path, figures):
    network = chat_run.save(tmp_path / "net", 56)
    definition = BENCHMARKS["gqa"]
    made_up.write_table("gqa", tmp_path / f"{definition.tsv}.tsv")
    found = analyse.analyse(
        analyse.open_network(str(network)),
        [analyse.TableBenchmark.open(definition, tmp_path, limit=2)],
        figures,
        tmp_path / "out",
        rows=2,
    )
    assert tuple(found["figures"]) == figures
    layers = found["figures"]["attention"]["gqa"]["layers"]
    assert set(layers) == {"self"}
    shares = found["figures"]["attention"]["gqa"]["share"]["all"]["mean"]
    assert all(0 < share < 1 for share in shares)


def test_mistakes_are_told_before_a_network_is_loaded(run, tmp_path, refusal):
    checkpoint = f"--checkpoint={run}"
    for extra, why in (
        (["--figures=atention"], "no 'atention' (nearest: attention, "),
        (["--benchmarks=docvqua"], "no 'docvqua' (nearest: docvqa"),
        (["--benchmarks=pages,gqa"], "gqa need their files: give --data=FOLDER"),
        (["--benchmarks=gqa", f"--data={tmp_path}"], "lmms-lab-encoder/GQA"),
        (["--budget=sa1:0"], "the SELF layers of this model are [1, 2]"),
        (["--budgets=none,sa1:7"], "the SELF layers of this model are [1, 2]"),
        (["--split=tests"], "tests"),
        (["--out=gs://bucket/run"], "gs://"),
    ):
        assert why in refusal(checkpoint, *extra)
    assert "give --out" in refusal("--checkpoint=owner/name")


def test_words_of_other_benchmarks_are_nothing_to_a_network_for_pages(
    run, tmp_path, capsys
):
    made_up.write_table("gqa", tmp_path / f"{BENCHMARKS['gqa'].tsv}.tsv")
    with pytest.raises(SystemExit):
        own_flags.call(
            analyse, f"--checkpoint={run}", "--benchmarks=gqa", f"--data={tmp_path}"
        )
    assert "give --benchmarks=pages" in capsys.readouterr().err
