"""Reports in Chromium: on desk and phone, in light and dark, and on paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from axe import axe_source, findings
from PIL import Image
from playwright.sync_api import Browser, Page
from test_page_browser import browser  # noqa: F401  # a fixture

from chiasm.evaluation.predictions import Predictions, measure
from chiasm.report import page as report
from chiasm.report.sections import show_columns


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report on a recogniser of three classes with long names, which is wrong for some pictures."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    classes = ("birds of the open sea", "boats", "unbreakable" * 6)
    true = rng.integers(3, size=60)
    predicted = np.where(rng.random(60) < 0.8, true, rng.integers(3, size=60))
    media = []
    for number in range(60):
        path = folder / f"{number}.png"
        Image.new("RGB", (300, 200), tuple(rng.integers(255, size=3).tolist())).save(path)
        media.append({"image": str(path), "text": f"picture {number}, in the words of its owner"})
    probabilities = np.full((60, 3), 0.2)
    probabilities[np.arange(60), predicted] = 0.6
    names = np.array(classes)
    found = Predictions(
        kind="classes",
        ids=tuple(map(str, range(60))),
        media=tuple(media),  # type: ignore[arg-type]  # of modalities
        groups=np.arange(60),
        classes=tuple(sorted(classes)),
        true=names[true],
        predicted=names[predicted],
        probabilities=probabilities[:, np.argsort(names)],
    )
    made = report.Page("kind: 3 classes", "Measured on 60 items.", {"encoder": "offline", "seed": "0"})
    show_columns(made, {"kind": found}, measure(found))
    made.save(folder / "report.html")
    return (folder / "report.html").as_uri()


def opened(browser: Browser, address: str, width: int, scheme: str) -> Page:  # noqa: F811
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(address)
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1024, 1440])
def test_a_report_fits_and_can_be_used_by_everybody(
    width: int,
    scheme: str,
    browser: Browser,  # noqa: F811
    address: str,
) -> None:
    page = opened(browser, address, width, scheme)
    try:
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing is wider than the window"
        for part in (".sentence", ".figures li:last-child b"):
            box = page.locator(part).first.bounding_box()
            assert box is not None
            assert box["y"] + box["height"] < 900, f"{part} is on the first screen"
        assert page.locator("img").count() > 0
        assert page.locator("details[open]").count() == 0
        assert findings(page, axe_source()) == []
    finally:
        page.close()


def test_on_paper_everything_is_shown(browser: Browser, address: str) -> None:  # noqa: F811
    page = opened(browser, address, 800, "dark")
    try:
        assert not page.get_by_text("Expected calibration error").is_visible()
        page.emulate_media(media="print")
        assert page.get_by_text("Expected calibration error").is_visible()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.locator("nav").is_visible()
    finally:
        page.close()


def test_a_report_asks_for_nothing(browser: Browser, address: str) -> None:  # noqa: F811
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    try:
        page.goto(address)
        assert [url for url in asked if not url.startswith("data:")] == [address]
        assert Path(address.removeprefix("file://")).stat().st_size < report.MEDIA_BYTES
    finally:
        page.close()
