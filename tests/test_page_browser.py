"""The page in a real browser: Debian's Chromium without a window, against a real server on a free port of loopback."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import uvicorn
from fake_searcher import png
from page_parts import EVIL, EVIL_ID, Made, make, rising
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from chiasm.serving.run import Config, listen

HITS = "#cx-results .cx-hit"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with pytest.MonkeyPatch.context() as patch:
        yield make(tmp_path_factory.mktemp("browser"), patch)


@pytest.fixture(scope="module")
def address(made: Made) -> Iterator[str]:
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(Config(made.app, made.app.state.parts.settings))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = server.force_exit = True
    thread.join()
    listening.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:  # shown in the summary of the run, so not in silence
        pytest.skip("the tests of the page in a browser need a Chromium. On Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        one = playwright.chromium.launch(
            executable_path=found,
            args=[*sandbox, "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--mute-audio"],
        )
        yield one
        one.close()


@dataclass
class Visit:
    """A loaded page, and what its browser asked for and complained of."""

    page: Page
    asked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def hits(self) -> Locator:
        return self.page.locator(HITS)

    def items(self) -> list[str]:
        found: list[str] = self.page.eval_on_selector_all(HITS, "all => all.map(one => one.dataset.item)")
        return found

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def search(self, words: str) -> None:
        self.page.get_by_label("Search in words").fill(words)
        self.page.get_by_label("Search in words").press("Enter")
        expect(self.page.locator("#cx-results .cx-title")).to_contain_text(f"“{words[:100]}")


def visit(context: BrowserContext, address: str) -> Visit:
    page = context.new_page()
    page.set_default_timeout(20_000)
    found = Visit(page)
    page.on("request", lambda request: found.asked.append(request.url))
    page.on("pageerror", lambda error: found.errors.append(str(error)))
    page.on("console", lambda message: found.errors.append(message.text) if message.type == "error" else None)
    page.goto(f"{address}/")
    expect(found.hits.first).to_be_visible(timeout=20_000)
    return found


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    expect.set_options(timeout=15_000)
    one = browser.new_context(viewport={"width": 1280, "height": 900}, permissions=["microphone"])
    yield one
    one.close()


@pytest.fixture
def fresh(context: BrowserContext, address: str) -> Iterator[Visit]:
    """A page that nothing was done with."""
    found = visit(context, address)
    yield found
    found.page.close()
    _at_peace(found)


@pytest.fixture(scope="module")
def shared(context: BrowserContext, address: str) -> Iterator[Visit]:
    found = visit(context, address)
    yield found
    found.page.close()


@pytest.fixture
def seen(shared: Visit, made: Made) -> Iterator[Visit]:
    """A page that other tests have used, on its search tab."""
    made.kept.thumbs.clear()
    shared.tab("Search")
    yield shared
    _at_peace(shared)


def _at_peace(found: Visit) -> None:
    away = [
        url
        for url in found.asked
        if urlsplit(url).scheme in ("http", "https") and urlsplit(url).hostname != "127.0.0.1"
    ]
    assert not away, "the page asked for something that is elsewhere"
    assert not found.errors


def test_words_are_searched_with_the_keyboard_alone(fresh: Visit) -> None:
    fresh.page.keyboard.press("/")
    expect(fresh.page.get_by_label("Search in words")).to_be_focused()
    fresh.page.keyboard.type("a red square")
    fresh.page.keyboard.press("Enter")
    expect(fresh.hits.first).to_have_attribute("data-item", "red")
    picture = fresh.hits.first.locator("img")
    assert urlsplit(str(picture.get_attribute("src"))).path == "/v1/items/red/files/image/0"
    assert picture.evaluate("one => one.complete && one.naturalWidth") == 16
    reached = set()
    for _ in range(30):
        fresh.page.keyboard.press("Tab")
        reached.add(
            fresh.page.evaluate("document.activeElement.getAttribute('data-act') || document.activeElement.tagName")
        )
        outline = fresh.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        if "up" in reached:
            assert outline == "solid", "what has the focus is to be fresh"
            break
    assert {"BUTTON", "like", "up"} <= reached
    fresh.page.keyboard.press("Enter")
    expect(fresh.page.locator(".cx-chip")).to_contain_text("a red square")


def test_a_picture_is_looked_for_and_a_filter_changes_what_is_found(fresh: Visit) -> None:
    files = [{"name": "x.png", "mimeType": "image/png", "buffer": png((20, 20, 230))}]
    fresh.page.locator("#cx-file input[type=file]").set_input_files(files)  # type: ignore[arg-type]  # a dictionary is taken
    expect(fresh.page.locator("#cx-results .cx-title")).to_have_text("image x.png")
    assert fresh.items()[:2] == ["blue", "sky"]
    condition = fresh.page.get_by_label("Where (SQL)")
    condition.fill("label = 'warm'")
    condition.press("Enter")
    expect(fresh.hits).to_have_count(2)
    assert set(fresh.items()) == {"red", "rose"}
    condition.fill("label =")
    condition.press("Enter")
    expect(fresh.page.get_by_role("alert")).to_contain_text("cannot be used")


def test_a_sound_is_looked_for_and_its_player_jumps_to_the_moment(fresh: Visit) -> None:
    files = [{"name": "x.wav", "mimeType": "audio/wav", "buffer": rising()}]
    fresh.page.locator("#cx-file input[type=file]").set_input_files(files)  # type: ignore[arg-type]
    expect(fresh.page.locator("#cx-results .cx-title")).to_have_text("audio x.wav")
    assert fresh.items()[0] == "rising"
    other = fresh.page.locator(f"{HITS}[data-item=falling]")
    assert str(other.locator("audio").get_attribute("src")).endswith("/v1/items/falling/files/audio/0#t=2.00,3.00")
    jump = other.locator(".cx-jump").last
    start = float(str(jump.get_attribute("data-start")))
    jump.click()
    fresh.page.wait_for_function(
        "start => { const one = document.querySelector('[data-item=falling] audio');"
        " return one.currentTime >= start && one.currentTime < start + 2.9 && one.duration > 2.9 }",
        arg=start,
    )


def test_a_sound_is_recorded_and_looked_for(fresh: Visit) -> None:
    record = fresh.page.locator("#cx-record")
    record.get_by_role("button", name="Record").click()
    fresh.page.wait_for_timeout(1200)
    record.get_by_role("button", name="Stop").first.click()
    expect(fresh.page.locator("#cx-results .cx-title")).to_contain_text("audio ")
    assert {"rising", "falling"} <= set(fresh.items())


def test_thumbs_rank_anew_at_once_and_are_stored(seen: Visit, made: Made) -> None:
    seen.search("grass")
    before = seen.items()
    chosen = next(name for name in before[2:] if name != EVIL_ID)
    seen.page.locator(f"{HITS}[data-item={chosen}] [data-act=up]").click()
    expect(seen.page.locator(".cx-chip")).to_have_count(1)
    after = seen.items()
    assert chosen not in after
    assert after != [name for name in before if name != chosen]
    assert made.kept.thumbs == [(chosen, "up", "grass", "address 127.0.0.1")]
    expect(seen.page.locator(f"{HITS} [data-act=up]:focus")).to_have_count(1)
    seen.page.locator(f"{HITS} [data-act=down]").last.click()
    expect(seen.page.locator(".cx-chip")).to_have_count(2)
    assert [row[1] for row in made.kept.thumbs] == ["up", "down"]
    seen.page.locator(".cx-chip button").first.click()
    expect(seen.page.locator(".cx-chip")).to_have_count(1)


def test_hostile_captions_and_ids_do_nothing(seen: Visit) -> None:
    seen.search(EVIL)
    assert seen.items()[0] == EVIL_ID
    expect(seen.hits.first.locator(".cx-caption")).to_contain_text("<script>window.hacked=1</script>")
    assert seen.hits.first.locator("img").evaluate("one => one.complete && one.naturalWidth") == 16
    seen.hits.first.locator("[data-act=like]").click()
    expect(seen.page.locator("#cx-results .cx-title")).to_contain_text("like: <script>")
    assert EVIL_ID not in seen.items()
    seen.tab("Map")
    expect(seen.page.locator(".cx-map circle")).to_have_count(6)
    seen.tab("Status")
    expect(seen.page.locator(".cx-facts")).to_be_visible()
    assert seen.page.evaluate("window.hacked") is None


def test_an_event_handler_that_gets_into_the_page_is_stopped_by_its_policy(
    context: BrowserContext, address: str
) -> None:
    found = visit(context, address)
    found.page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"/none\" onerror=\"window.hacked=1\">')"
    )
    found.page.wait_for_timeout(300)
    assert found.page.evaluate("window.hacked") is None
    assert any("Content Security Policy" in text for text in found.errors)
    found.page.close()


def test_files_are_recognised_corrected_and_learned_from(seen: Visit, made: Made) -> None:
    seen.tab("Classify")
    files = [
        {"name": "a.png", "mimeType": "image/png", "buffer": png((250, 10, 10))},
        {"name": "b.png", "mimeType": "image/png", "buffer": png((90, 90, 90))},
    ]
    seen.page.locator("#cx-drop input[type=file]").set_input_files(files)  # type: ignore[arg-type]
    cards = seen.page.locator("#cx-predictions .cx-hit")
    expect(cards).to_have_count(2)
    expect(cards.first.locator(".cx-label")).to_contain_text("warm")
    expect(cards.first.locator(".cx-label")).to_contain_text("90 %")
    expect(cards.last.locator(".cx-label")).to_contain_text("unknown")
    field = cards.last.get_by_label("True label of b.png")
    field.fill("grey")
    field.press("Enter")
    expect(cards.last.locator(".cx-saved")).to_have_text("Saved as grey")
    assert made.kept.files[-1] == (png((90, 90, 90)), "b.png", "grey")
    seen.page.get_by_role("button", name="Review items").click()
    expect(cards).to_have_count(6)
    card = seen.page.locator("#cx-predictions .cx-hit[data-item=blue]")
    card.locator("input").fill("deep")
    card.get_by_role("button", name="Save").click()
    expect(card.locator(".cx-saved")).to_have_text("Saved as deep")
    assert made.kept.labels[-1] == ("blue", "deep", "address 127.0.0.1")
    seen.page.get_by_role("button", name="Learn from corrections").click()
    expect(seen.page.locator("#cx-learned .cx-verdict")).to_contain_text("The new model is in use.")
    expect(seen.page.locator("#cx-learned table")).to_contain_text("0.800")
    assert made.kept.learned == 1


def test_the_map_is_walked_and_clicked(seen: Visit) -> None:
    seen.tab("Map")
    expect(seen.page.locator(".cx-map circle")).to_have_count(6)
    seen.page.locator(".cx-map circle[data-id=green]").click()
    expect(seen.page.locator("#cx-map-item .cx-hit")).to_have_attribute("data-item", "green")
    seen.page.locator(".cx-map svg").focus()
    for key in ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"):
        seen.page.keyboard.press(key)
    at = seen.page.locator(".cx-map circle.cx-at").get_attribute("data-id")
    seen.page.keyboard.press("Enter")
    expect(seen.page.locator("#cx-map-item .cx-hit")).to_have_attribute("data-item", str(at))
    seen.page.locator("#cx-map-item [data-act=like]").click()
    expect(seen.page.locator("#cx-results .cx-title")).to_contain_text("like: ")


def test_the_report_and_the_status_are_shown(seen: Visit, made: Made) -> None:
    reports = made.searcher.collection.path / "reports"
    reports.mkdir(exist_ok=True)
    (reports / "one.html").write_text("<h1>Recall is fine</h1>")
    seen.tab("Report")
    expect(seen.page.frame_locator("iframe.cx-report").locator("h1")).to_have_text("Recall is fine")
    seen.tab("Status")
    expect(seen.page.locator(".cx-table:visible")).to_contain_text("media/broken.png")


def test_the_page_fits_a_phone(browser: Browser, address: str, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    found = visit(context, address)
    found.search("a red square")
    first = found.hits.first.bounding_box()
    assert first is not None
    assert first["y"] < 500, "hits are to be seen without scrolling: the filters are put away"
    small = found.page.eval_on_selector_all(
        "#cx-results button, #cx-go", "all => all.filter(one => one.offsetWidth && one.offsetHeight < 24).length"
    )
    assert small == 0, "buttons are to be hit with a finger"
    for name in ("Search", "Map", "Status"):
        if not found.page.get_by_role("tab", name=name).is_visible():
            found.page.locator("#cx-tabs .overflow-menu > button").click()
            found.page.locator("#cx-tabs .overflow-dropdown button", has_text=name).click()
        else:
            found.tab(name)
        found.page.wait_for_timeout(200)
        assert found.page.evaluate("document.documentElement.scrollWidth") <= 390, f"{name} is too wide"
    context.close()
