"""A recogniser of the stamps as one HTML page in Chromium: how large it is, how soon it is ready, how long a picture takes, and
whether it answers as the full model does.

Stamps that are held out are chosen in the page as people choose them. Times are the page's own, from the file to the answer, in a
Chromium without a window and without a network, by one thread.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser

import chiasm
from benchmarks import record
from benchmarks.page import browsing
from benchmarks.ship import fitted, macro_f1
from chiasm.verbs.predict import Prediction

FORMS = ("fp32", "int8")
MINUTES = 10  # for all pictures
ANSWERS = """all => all.reverse().map(one => ({
    words: one.querySelector("h2").textContent,
    name: one.querySelector("li span").textContent,
    probability: Number(one.querySelector("data").value),
    milliseconds: Number([...one.querySelectorAll(".soft")].at(-1).textContent.match(/(\\d+) ms$/)[1]),
}))"""


def main() -> None:
    with browsing() as browser, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, test = fitted(folder)
        pictures = [Path(row["image"]) for row in test]
        true = np.array([row["category"] for row in test])
        whole = predicted(folder / "model", pictures)
        rows: list[list[object]] = [
            ["the full model", *[""] * 6, macro_f1(true, np.array([one.label for one in whole]))]
        ]
        for form in FORMS:
            page, bundle = folder / f"{form}.html", folder / f"{form}.chiasm"
            chiasm.export(folder / "model", out=bundle, int8=form == "int8")
            size = chiasm.export(folder / "model", out=page, int8=form == "int8").size or 0
            ready, answers = answered(browser, page, pictures)
            said = np.array([one["name"] for one in answers])
            gaps = [
                abs(one["probability"] - same.probabilities[one["name"]])
                for one, same in zip(answers, predicted(bundle, pictures), strict=True)
            ]
            rows.append(
                [
                    form,
                    f"{size / 1e6:.1f}",
                    f"{ready:.1f}",
                    f"{np.median([one['milliseconds'] for one in answers]):.0f}",
                    f"{np.mean(gaps):.4f} ({max(gaps):.3f})",
                    float(np.mean(said == [one.label for one in whole])),
                    float(
                        np.mean(
                            [
                                (one["words"] == "unknown") == full.unknown
                                for one, full in zip(answers, whole, strict=True)
                            ]
                        )
                    ),
                    macro_f1(true, said),
                ]
            )
    columns = (
        "", "size, MB", "ready after, s", "ms a picture", "probability against the .chiasm file of the form, mean (largest)",
        "classes as the full model's", "`unknown` as the full model's", "macro-F1",
    )  # fmt: skip
    about = (
        f"{len(pictures)} pictures held out, which all have without their captions; medians of one thread; "
        f"load {os.getloadavg()[0]:.1f}."
    )
    record.write("web", "A recogniser as one HTML page", "0", record.table(columns, rows) + f"\n\n{about}")


def answered(browser: Browser, file: Path, pictures: list[Path]) -> tuple[float, list[dict[str, Any]]]:
    """Return after how many seconds the page is ready, and its answers in the order of the pictures."""
    context = browser.new_context(offline=True)
    page = context.new_page()
    begin = time.perf_counter()
    page.goto(file.as_uri())
    page.get_by_text("Ready.").wait_for()
    ready = time.perf_counter() - begin
    page.locator("#files").set_input_files(pictures)
    page.locator("article").nth(len(pictures) - 1).wait_for(timeout=MINUTES * 60_000)
    answers: list[dict[str, Any]] = page.locator("article").evaluate_all(ANSWERS)
    context.close()
    return ready, answers


def predicted(model: Path, pictures: list[Path]) -> tuple[Prediction, ...]:
    return chiasm.predict(model, {"image": [*map(str, pictures)]}).predictions


if __name__ == "__main__":
    main()
