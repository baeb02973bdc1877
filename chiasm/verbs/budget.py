"""The smallest or the fastest form of a model in one file that is as good as the full one, by held-out items.

As good: its macro-F1 on items that the model has not learned from is less than one standard error below that of the full model,
over these items. What the forms are is left to `bundles`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from chiasm import encoders
from chiasm.encoders.base import fingerprints_of
from chiasm.errors import ChiasmError
from chiasm.evaluation.intervals import bootstrap_error
from chiasm.evaluation.metrics import classification_metrics
from chiasm.predict_script import Bundle
from chiasm.space import start_space
from chiasm.store.collection import Collection
from chiasm.types import Modality
from chiasm.verbs.dataset import labelled_items
from chiasm.verbs.export import Form
from chiasm.verbs.model import Model

FEWEST = 20  # held-out items
_WRITTEN = re.compile(r"(\d+(?:\.\d+)?)\s*(MB|ms)", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """The most that a file may cost: megabytes, or milliseconds of one core an item."""

    most: float
    unit: Literal["MB", "ms"]

    @classmethod
    def of(cls, written: str) -> Budget:
        """Return the budget that somebody wrote.

        Raises:
            ChiasmError: it is none.

        Example:
            >>> Budget.of("30MB")
            Budget(most=30.0, unit='MB')
        """
        match = _WRITTEN.fullmatch(written.strip())
        if match is None or not float(match[1]):
            raise ChiasmError(f"a budget is a number of MB, or of ms an item, such as 30MB or 25ms; got {written!r}")
        return cls(float(match[1]), "ms" if match[2].lower() == "ms" else "MB")

    def cost(self, form: Form) -> float:
        """Return what a form costs in its unit."""
        return form.megabytes if self.unit == "MB" else form.milliseconds


@dataclass(frozen=True)
class HeldOutFiles:
    """Labelled items as files, which the model has not learned from."""

    items: tuple[Mapping[Modality, Sequence[str | Path]], ...]
    labels: tuple[str, ...]


def held_out_files(models: Sequence[Model], collection: str | Path) -> HeldOutFiles:
    """Return the items of a collection that have a class of the first model, and that no model has learned from.

    Raises:
        ChiasmError: a model is of something else than one column of classes, or of another column than the first, the
            collection is embedded by another encoder than the first model's, or there are fewer than 20 such items.
    """
    saved = models[0]
    if any(len(one.recognizer.columns_) > 1 or one.recognizer.only_column_.kind != "classes" for one in models):
        raise ChiasmError("a budget is for models of one column of classes: leave it out, and choose by --int8")
    if len({one.label for one in models}) > 1:
        raise ChiasmError(f"the models are of different columns: {', '.join(one.label for one in models)}")
    for one in models:
        one.require_record("a budget cannot be chosen by: leave it out, and choose by --int8")
    opened = Collection.open(collection)
    networks = encoders.resolve(opened.encoder, device="cpu")
    saved.check(fingerprints_of(networks))
    space, used = saved.space or start_space(networks), tuple(saved.fingerprints)
    data = labelled_items(opened, networks, space, [saved.label], modalities=used)
    known, seen = (
        {str(name) for name in saved.recognizer.classes_},
        [one.left_out.knows(data.contents) for one in models],
    )
    rows = [row for row, label in enumerate(data.labels) if not any(own[row] for own in seen) and str(label) in known]
    if len(rows) < FEWEST:
        raise ChiasmError(
            f"{opened.path.name} has {len(rows)} labelled items that the model has not learned from, and {FEWEST} are the least that a "
            "budget is chosen by: name a collection of others (--on)"
        )
    items = tuple(
        {name: [Path(one) if Path(one).is_absolute() else one] for name, one in data.media[row].items()} for row in rows
    )
    return HeldOutFiles(items, tuple(str(data.labels[row]) for row in rows))


def measure_forms(files: Mapping[str, Path], held_out: HeldOutFiles) -> tuple[tuple[Form, ...], float]:
    """Measure forms of a model, the full one first; return them, and the standard error of the full one's macro-F1."""
    true = np.array(held_out.labels)
    said: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for name, file in files.items():
        bundle = Bundle(file)
        bundle.recognise(held_out.items[:1], 0.9, 0.05)  # networks are loaded
        begin = time.process_time()
        answers = bundle.recognise(held_out.items, 0.9, 0.05)[0]
        seconds[name] = time.process_time() - begin
        said[name] = np.array([next((one["value"] for one in part["columns"].values()), "") for part in answers])
    full = next(iter(said.values()))
    error = bootstrap_error(lambda rows: classification_metrics(true[rows], full[rows]).f1_macro, len(true))
    scores = {name: classification_metrics(true, own).f1_macro for name, own in said.items()}
    best = next(iter(scores.values()))
    forms = tuple(
        Form(name, file.stat().st_size / 1e6, 1000 * seconds[name] / len(true), scores[name], best - scores[name])
        for name, file in files.items()
    )
    return forms, error


def choose(forms: Sequence[Form], error: float, budget: Budget) -> Form:
    """Return the cheapest form that is as good as the full one, which is the first.

    Raises:
        ChiasmError: that costs more than the budget; says what each form costs.
    """
    good = [form for form in forms if form.loss <= 0 or form.loss < error]
    best = min(good, key=budget.cost)
    if budget.cost(best) > budget.most:
        raise ChiasmError(
            f"no form of the model stays within {budget.most:g} {budget.unit} and loses less than one standard error of macro-F1 "
            f"({error:.3f}) on held-out items: {in_words(forms)}"
        )
    return best


def in_words(forms: Sequence[Form]) -> str:
    """Return what was measured of forms, in a sentence."""
    return "; ".join(
        f"{one.name} {one.megabytes:.1f} MB, {one.milliseconds:.0f} ms an item, macro-F1 {one.f1_macro:.3f}"
        for one in forms
    )


def as_table(forms: Sequence[Form], error: float, items: int) -> str:
    """Return what was measured of forms in Markdown."""
    lines = ["| form | MB | ms an item, of one core | macro-F1 |", "|---|---|---|---|"]
    lines += [f"| {one.name} | {one.megabytes:.1f} | {one.milliseconds:.0f} | {one.f1_macro:.3f} |" for one in forms]
    return "\n".join([*lines, "", f"On {items} held-out items; standard error of macro-F1 {error:.3f}."])


def save_report(forms: Sequence[Form], error: float, items: int, budget: Budget, name: str, path: str | Path) -> None:
    """Write what was measured of forms as a report."""
    from chiasm.report.forms import show_forms
    from chiasm.report.page import Page

    measured = f"Measured on {items} held-out items; standard error of the full model's macro-F1 {error:.3f}."
    page = Page(f"Forms of {name}", measured, {"budget": f"{budget.most:g} {budget.unit}"})
    costs = {"MB": [one.megabytes for one in forms], "ms an item": [one.milliseconds for one in forms]}
    show_forms(page, [one.name for one in forms], costs, [one.f1_macro for one in forms], error)
    page.save(path)
