"""`visor_jax.load`: answers, logits and costs from a path; one clear error each."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import visor_jax
from tests import tolerances
from tests.data.pages.prompt_batch import prompt_batch
from tests.inference import page_run
from visor_jax.budget import Budget
from visor_jax.data.pages.tokenizer import page_tokenizer
from visor_jax.data.prompts.sampling import Sampling
from visor_jax.flops.account import account, savings
from visor_jax.models.vlm import VLM

QUESTION = "digit row 2 column 3"


@pytest.fixture(scope="module")
def params():
    return page_run.parameters()


@pytest.fixture(scope="module")
def workdir(params, tmp_path_factory):
    return page_run.save(tmp_path_factory.mktemp("run"), params)


@pytest.fixture(scope="module")
def model(workdir):
    return visor_jax.load(workdir)


@pytest.mark.parametrize("inside", ["checkpoints", "checkpoints/7"])
def test_a_path_is_enough(workdir, inside):
    model = visor_jax.load(str(workdir / inside))
    assert model.config == page_run.CONFIG
    assert model.budgets.names == page_run.BUDGETS
    assert model.metadata["step"] == 7
    assert model.metadata["preset"] == "tiny"
    assert not [name for name in model.params if "reading" in name]


def test_a_tokenizer_in_the_workdir_is_used(params, tmp_path):
    page_run.save(tmp_path, params)
    tokenizer = page_tokenizer()
    tokenizer.add_tokens(["mine"])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert "mine" in visor_jax.load(tmp_path).tokenizer.get_vocab()


@pytest.mark.parametrize("budget", ["sa0", "sa2:1,2"])
def test_logits_are_those_of_the_network(model, params, budget):
    found = model.logits(page_run.page(), QUESTION, budget)
    batch = prompt_batch(page_run.page()[None], [QUESTION])
    gates = Budget.parse(budget, page_run.CONFIG.plan).gates(page_run.CONFIG.plan)
    network = VLM(page_run.CONFIG)
    forward = jax.jit(lambda v, b: network.apply(v, b, gates).logits)
    expected = forward({"params": params}, batch)
    assert found.shape == (4, 64)
    np.testing.assert_allclose(found, expected[0], **tolerances.REORDERED)


def test_the_first_word_is_the_likeliest(model):
    for budget in ("sa0", "all"):
        logits = model.logits(page_run.page(), QUESTION, budget)
        answer = model.generate(page_run.page(), QUESTION, budget)
        first = int(logits[-1].argmax())
        word = model.tokenizer.decode([first], skip_special_tokens=True)
        assert answer.startswith(word)


def test_the_largest_budget_is_the_default(model):
    image = page_run.page()
    np.testing.assert_array_equal(
        model.logits(image, QUESTION), model.logits(image, QUESTION, "all")
    )
    assert model.budget() == model.budget("all") == Budget((1, 2))
    assert model.budget(Budget((1,))) == model.budget("sa1:1")


def test_images_come_in_many_forms(model, tmp_path):
    array = page_run.page()
    file = tmp_path / "page.png"
    Image.fromarray(array).save(file)
    expected = model.logits(array, QUESTION)
    alpha = np.dstack([array, np.full((96, 96), 255, np.uint8)])
    for image in (file, str(file), Image.open(file), alpha):
        np.testing.assert_array_equal(model.logits(image, QUESTION), expected)


def test_sampling_with_a_key(model):
    sampling = Sampling(temperature=2.0)
    kwargs = {"sampling": sampling, "key": jax.random.key(0), "max_new_tokens": 1}
    first = model.generate(page_run.page(), QUESTION, **kwargs)
    assert first == model.generate(page_run.page(), QUESTION, **kwargs)


def test_cost_is_the_account_against_dense(model):
    cost = model.cost("sa1:2", text_tokens=20)
    measured = account(
        page_run.CONFIG,
        Budget((2,)),
        text_tokens=20,
        image_tokens=144,
        crops=1,
        logit_positions=1,
    )
    assert cost.llm_prefill == measured.llm_prefill
    assert cost.tower == measured.tower.total
    assert cost.llm_saving == savings(measured).llm_saving
    assert model.cost("none").llm_prefill < model.cost("all").llm_prefill
    with pytest.raises(ValueError, match="text_tokens=0 is below 1"):
        model.cost("all", text_tokens=0)


@pytest.mark.parametrize("budget", ["sa1:2", "sa9", "many", "sa1:0", Budget((0,))])
def test_a_budget_it_was_not_trained_for_is_refused_with_those_it_was(model, budget):
    with pytest.raises(ValueError, match="sa0, sa1:1, sa2:1,2"):
        model.generate(page_run.page(), QUESTION, budget)


def test_unknown_words_are_named(model):
    with pytest.raises(ValueError, match=r"\['What', 'is', 'this', '\?'\]"):
        model.generate(page_run.page(), "What is this ?")
    with pytest.raises(ValueError, match="question is empty"):
        model.logits(page_run.page(), " ")


def test_questions_may_be_messages_about_one_page_only(model):
    image, text = {"type": "image", "image": page_run.page()}, {"type": "text"}
    content = [image, {**text, "text": QUESTION}]
    messages = [{"role": "user", "content": content}]
    np.testing.assert_array_equal(
        model.logits(None, messages), model.logits(page_run.page(), QUESTION)
    )
    film = {"type": "video", "video": [page_run.page()]}
    for wrong in ([film, *content], content[1:], [image, *content]):
        with pytest.raises(ValueError, match="questions about one page"):
            model.chat([{"role": "user", "content": wrong}])
    with pytest.raises(ValueError, match="one message of the user"):
        model.chat([{"role": "system", "content": "Hm"}, *messages])


def test_damaged_and_missing_images_are_named(model, tmp_path):
    with pytest.raises(ValueError, match=r"gone\.png.*no such file"):
        model.generate(tmp_path / "gone.png", QUESTION)
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"text\.png.*damaged or no image"):
        model.generate(tmp_path / "text.png", QUESTION)


def test_pictures_of_the_net_come_from_allowed_hosts_alone(model, workdir):
    url = "http://127.0.0.1/page.png"
    with pytest.raises(ValueError, match="nothing is fetched from the net"):
        model.generate(url, QUESTION)
    allowing = visor_jax.load(workdir, allow_hosts=["img.example.org"])
    with pytest.raises(ValueError, match=r"'127\.0\.0\.1' is not among the allowed"):
        allowing.generate(url, QUESTION)
    with pytest.raises(ValueError, match=r"Allowed hosts \['http://a\.b'\] are none"):
        visor_jax.load(workdir, allow_hosts=["http://a.b"])


def test_a_path_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"gone.* does not exist"):
        visor_jax.load(tmp_path / "gone")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        visor_jax.load(tmp_path)


def test_a_checkpoint_of_another_model_is_refused(params, tmp_path):
    changed = page_run.CONFIG.replace(grid_embedding=False).to_dict()
    run = page_run.save(tmp_path / "a", params, model=changed)
    with pytest.raises(ValueError, match=r"another model[\s\S]*row_embedding"):
        visor_jax.load(run)
    run = page_run.save(tmp_path / "b", {"w": np.ones(3)}, model={})
    with pytest.raises(ValueError, match="does not describe a network"):
        visor_jax.load(run)
    small = page_run.CONFIG.to_dict()
    small["vision"] = {**small["vision"], "image_size": 48}
    run = page_run.save(tmp_path / "c", params, model=small)
    with pytest.raises(ValueError, match=r"another model[\s\S]*position_embedding"):
        visor_jax.load(run)


def test_importing_the_package_is_light():
    program = "import sys, visor_jax; print(visor_jax.load, 'jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == "False"
