"""Find earlier cases like a new picture, with their reports, and say what it probably is.

    python examples/case_search.py cases.csv new.png

The table has the columns `id`, `image`, `text` (the report), `patient` and `diagnosis`. All pictures of one patient stay
on one side of every split, else a model that knows the patient looks better than it is. For people who know the field:
what comes out is a reason to look at earlier cases, not a finding.
"""
# ruff: noqa: T201

from __future__ import annotations

import sys
from pathlib import Path

import chiasm
from chiasm.verbs.predict import Prediction
from chiasm.verbs.query import SearchResult


def main(
    cases: str | Path, picture: str | Path, folder: str | Path = "cases"
) -> tuple[SearchResult, SearchResult, Prediction]:
    """Learn from the cases, then find those like a picture, reports that fit it, and its class."""
    collection, model = Path(folder, "collection"), Path(folder, "model")
    if chiasm.add([cases], to=collection).encoded or not model.exists():
        learned = chiasm.align(collection, pairs=("image", "text"))  # a picture comes to lie where its report does
        fitted = chiasm.fit(collection, label="diagnosis", group="patient", modalities=["image"], out=model)
        print(f"learned from {learned.pairs} pairs; {fitted.measured}: accuracy {fitted.metrics['accuracy']:.2f}")

    alike = chiasm.search(collection, image=picture, modality="image", k=3)
    reports = chiasm.search(collection, image=picture, modality="text", k=3, min_probability="auto")
    (guess,) = chiasm.predict(model, [picture]).predictions
    print(f"\nprobably {guess.label} ({guess.probability:.0%}); with it in 9 of 10 cases: {', '.join(guess.set)}")
    for title, result in [("cases that look alike", alike), ("reports that would fit", reports)]:
        print(f"\n{title}" + ("" if result.hits else ": none"))
        for hit in result.hits:
            about = hit.metadata
            print(
                f"  {hit.score:.2f}  {hit.id}, patient {about['patient']}, {about['diagnosis']}: {hit.text or hit.path}"
            )
    return alike, reports, guess


if __name__ == "__main__":
    main(*sys.argv[1:])
