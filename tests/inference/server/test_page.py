"""The page at /, in a real Chromium: drop, ask, stream, slider, heat maps, keyboard."""

import base64
import contextlib
import functools
import json
import shutil
import urllib.error
import urllib.request

import numpy as np
import pytest

from tests.inference.server import served
from visor_jax.analysis.answer_looks import answer_looks
from visor_jax.inference.generation.generate import Latency
from visor_jax.inference.server.looks_route import looks_routes

playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright: pip install -e .[test]"
)
expect = playwright.expect
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
QUESTION = "What is it?"
# Milliseconds, on a machine that does much else.
WAIT = 240_000


@pytest.fixture(scope="module")
def site():
    def times(request, budget):
        # Numbers that nothing has to be compiled for.
        assert budget in served.BUDGETS
        slow = Latency(prefill=30.0, per_token=5.0)
        return {"budget": Latency(prefill=12.0, per_token=2.5), "dense": slow}

    routes = looks_routes(functools.partial(answer_looks, served.model()), times)
    with served.serving(more_routes=[routes]) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium: the system's package")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=WAIT
        )
        yield started
        started.close()


@pytest.fixture
def page(site, browser):
    """Yields the page when it is ready, which has asked no other host."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    with contextlib.closing(context):
        page, asked, problems = context.new_page(), [], []
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(site.origin)
        expect(page.locator("#health")).to_have_text("ready", timeout=WAIT)
        yield page
        own = (site.origin, "data:", "blob:")
        assert all(url.startswith(own) for url in asked)
        assert not problems


def drop(page, pixels):
    """Lets a picture fall onto the page."""
    content = served.data_uri(pixels).partition(",")[2]
    make = """(encoded) => {
        const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
        const found = new DataTransfer();
        found.items.add(new File([bytes], "a.png", {type: "image/png"}));
        return found;
    }"""
    transfer = page.evaluate_handle(make, content)
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    expect(page.locator("#picture")).to_be_visible(timeout=WAIT)


def expected(pixels, budget):
    limit = {"max_new_tokens": served.NEW_TOKENS}
    return served.model().generate(pixels, QUESTION, budget, **limit)


def test_a_picture_is_dropped_asked_about_and_looked_at(site, page):
    pixels = served.picture()
    drop(page, pixels)
    page.evaluate(
        """() => { window.seen = [];
        new MutationObserver(() => seen.push(answer.textContent)).observe(
            answer, {childList: true, characterData: true, subtree: true}); }"""
    )
    page.fill("#question", QUESTION)
    page.click("#ask")
    page.wait_for_selector("#fact-token")
    text = expected(pixels, served.BUDGETS[1])
    assert page.text_content("#answer") == text
    # It grew: at least three states, each the beginning of the next.
    seen = [each for each in page.evaluate("seen") if each]
    assert len(set(seen)) >= 3
    assert all(text.startswith(each) for each in seen)
    assert page.text_content("#fact-budget").startswith(served.BUDGETS[1])
    assert "times less" in page.text_content("#fact-flops")
    said = "12.0 ms; dense 30.0 ms: 2.50 times as long"
    assert page.text_content("#fact-prefill") == said
    assert page.text_content("#fact-token") == "2.50 ms; dense 5.00 ms"
    assert page.text_content("#problem") == ""
    # One map per CROSS layer, painted over the picture, another for each token.
    assert page.locator("input[name=layer]").count() == 2
    written = served.model().tokenizer.encode(text)
    assert page.locator("#token option").count() == len(written) + 1
    painted = "heat.getContext('2d').getImageData(0, 0, heat.width, heat.height).data"
    whole = page.evaluate(f"[...{painted}].reduce((a, b) => a + b, 0)")
    assert whole > 0
    page.select_option("#token", index=1)
    assert page.evaluate(f"[...{painted}].reduce((a, b) => a + b, 0)") != whole
    before = page.get_attribute("#heat", "aria-label")
    page.locator("input[name=layer]").first.check()
    assert page.get_attribute("#heat", "aria-label") != before
    assert "Layer 0 looked hardest at row" in page.text_content("#looked")


def test_a_map_lies_over_the_places_of_its_image(page):
    rows, columns, hot = 3, 5, (2, 1)
    levels = np.zeros((2, rows, columns), np.uint8)
    levels[(0, *hot)] = levels[1, 0, 4] = 255
    maps = base64.b64encode(levels.tobytes()).decode()
    layer = {"layer": 2, "most": 0.5, "shown": 1.0, "maps": maps}
    told = {"rows": rows, "columns": columns, "tokens": ["a", "b"], "layers": [layer]}
    page.route("**/v1/visor/looks", lambda route: route.fulfill(json=told))
    drop(page, served.picture(60, 200))
    page.uncheck("#timed")
    page.fill("#question", QUESTION)
    page.click("#ask")
    page.wait_for_selector("#looks:not([hidden])")
    over, under = (page.locator(name).bounding_box() for name in ("#heat", "#picture"))
    assert over == under
    strongest = """() => {
        const pen = heat.getContext("2d");
        const {data} = pen.getImageData(0, 0, heat.width, heat.height);
        let most = 0, sum = 0, x = 0, y = 0;
        for (let i = 3; i < data.length; i += 4) most = Math.max(most, data[i]);
        for (let i = 0; i < data.length / 4; i++) if (data[4 * i + 3] > 0.9 * most) {
            sum++; x += i % heat.width; y += Math.floor(i / heat.width);
        }
        return [y / sum / heat.height, x / sum / heat.width];
    }"""
    for index, (row, column) in ((1, hot), (2, (0, 4))):
        page.select_option("#token", index=index)
        wanted = ((row + 0.5) / rows, (column + 0.5) / columns)
        # At an edge the strongest part reaches to it.
        np.testing.assert_allclose(page.evaluate(strongest), wanted, atol=0.09)
        said = f"row {row + 1}, column {column + 1} of {rows} x {columns}"
        assert said in page.text_content("#looked")


def test_the_slider_chooses_the_budget_by_keyboard_alone(site, page):
    drop(page, served.picture(seed=1))
    page.uncheck("#timed")
    page.focus("#budget")
    page.keyboard.press("Home")
    assert page.text_content("#chosen") == served.BUDGETS[0]
    page.focus("#question")
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    page.wait_for_selector("#looks:not([hidden])")
    pixels = served.picture(seed=1)
    assert page.text_content("#answer") == expected(pixels, served.BUDGETS[0])
    assert page.text_content("#fact-budget").startswith(served.BUDGETS[0])
    assert page.locator("#fact-prefill").count() == 0
    page.focus("#budget")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#budget", "aria-valuetext") == served.BUDGETS[1]


def test_every_control_has_a_name_and_is_reached_by_the_tab_key(page):
    page.set_input_files(
        "#file",
        {
            "name": "b.png",
            "mimeType": "image/png",
            "buffer": base64.b64decode(
                served.data_uri(served.picture()).partition(",")[2]
            ),
        },
    )
    expect(page.locator("#picture")).to_be_visible(timeout=WAIT)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("input,textarea,select,button")]
        .filter((each) => !each.labels?.length && !each.textContent.trim())
        .map((each) => each.id)"""
    )
    assert unnamed == []
    reached = []
    page.focus("#file")
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached == ["question", "budget", "ask", "timed"]
    live = "[...document.querySelectorAll('[aria-live],[role=alert],[role=status]')]"
    assert {"answer", "facts", "problem"} <= set(page.evaluate(f"{live}.map(e=>e.id)"))


def test_mistakes_are_told(page):
    page.click("#ask")
    assert page.text_content("#problem") == "Write a question first."
    page.fill("#question", "why " * 400)
    page.click("#ask")
    expect(page.locator("#problem")).to_contain_text("tokens", timeout=WAIT)
    assert page.is_enabled("#ask")


def test_a_telephone_shows_all_of_it(site, page):
    page.set_viewport_size({"width": 360, "height": 700})
    drop(page, served.picture())
    page.uncheck("#timed")
    page.fill("#question", QUESTION)
    page.click("#ask")
    page.wait_for_selector("#looks:not([hidden])")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_looks_that_cannot_be_shown_are_errors_of_the_interface(site):
    def asked(path, **changes):
        messages = served.messages(QUESTION, served.picture())
        body = {"model": "tiny", "messages": messages, "budget": "sa0", **changes}
        request = urllib.request.Request(
            f"{site.url}/visor/{path}",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["error"]["message"]

    status, found = asked("looks", answer="So.")
    assert (status, found["tokens"]) == (200, ["S", "o", "."])
    sizes = [len(base64.b64decode(each["maps"])) for each in found["layers"]]
    assert sizes == [3 * found["rows"] * found["columns"]] * 2
    status, why = asked("looks", answer="So.", messages=served.messages(QUESTION))
    assert (status, "exactly one image" in why) == (422, True)
    assert asked("looks")[0] == 400
    assert asked("looks", answer="So.", budget="sa7")[0] == 422
    assert asked("looks", answer="So.", model="other")[0] == 404
