"""The fourth panel of the help: how good search and recognition are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

import chiasm
from chiasm import console
from chiasm.cli import complete, results
from chiasm.cli.parameters import App, CollectionPath, Device, MaxPixels, ModelPath, Report, Space, Where, pair_of

app = App("Measure")


@app.verb(
    "chiasm evaluate photos.index --report search.html",
    "chiasm evaluate birds photos.index --label species --report birds.html",
    then="open the report; it ends with what was run.",
    doing="Measuring",
)
def evaluate(
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="What to measure: a collection, or a model.")],
    collection: Annotated[
        Path | None, typer.Argument(metavar="COLLECTION", help="For a model: where the labelled items are.")
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="For a collection: two modalities. Default: image,text, but with --moments alone."
        ),
    ] = None,
    space: Space = None,
    off_topic: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Questions, one a line, that nothing in the collection answers.")
    ] = None,
    moments: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLE",
            help="Table with the columns query, item, start, end (seconds; of a text characters), to be found.",
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="For a model: the column with the truth.", autocompletion=complete.columns),
    ] = None,
    where: Where = None,
    against: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="For a model: another one, on the same items.")
    ] = None,
    on: Annotated[
        Literal["auto", "folds", "training"],
        typer.Option(
            metavar="WHICH",
            help="auto: what was not learned from, else folds: each item by what was learned without it; training: all.",
        ),
    ] = "auto",
    report: Report = None,
    device: Device = "auto",
) -> None:
    """Measure search (of a collection, by pairs and questions) or a recogniser (of a model, by labels)."""
    result = chiasm.evaluate(
        target,
        collection,
        pairs=None if pairs is None else pair_of(pairs),
        space=space,
        off_topic=off_topic,
        moments=moments,
        label=label,
        where=where,
        against=against,
        on=on,
        report=report,
        device=device,
    )
    console.show(result.as_dict(), lambda: results.print_evaluation(result, report))


@app.verb(
    "chiasm drift birds photos.index",
    'chiasm drift birds photos.index --where "year = 2026"',
    then="chiasm labels and chiasm learn, if the items have changed.",
    doing="Comparing",
)
def drift(
    model: ModelPath,
    collection: CollectionPath,
    since: Annotated[
        bool,
        typer.Option("--since/--all", help="Only items that came after the model was fitted, or all it did not learn."),
    ] = True,
    where: Where = None,
    device: Device = "auto",
) -> None:
    """Measure how far the items of a collection lie from those that a model was trained on."""
    report = chiasm.drift(model, collection, since=since, where=where, device=device)
    console.show(report.as_dict(), lambda: results.print_drift_report(report))


@app.verb(
    "chiasm explain birds new.jpg",
    "chiasm explain birds --collection photos.index --report why.html",
    then="chiasm labels, for answers that are wrong.",
    doing="Explaining",
    rows=True,
)
def explain(
    model: ModelPath,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH", help="As for predict. None: what each answer of the model rests on."),
    ] = None,
    collection: Annotated[
        Path | None,
        typer.Option(
            metavar="COLLECTION", help="Gives items that speak for and against, and those to measure faithfulness on."
        ),
    ] = None,
    column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Of a model that predicts several: which to explain.")
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="What to explain. Default: the most probable class of each item."),
    ] = None,
    concepts: Annotated[
        str | None,
        typer.Option(
            metavar="WORDS|FILE",
            help="red,round,animal or a file with one a line: also fit a sparse linear model on the similarity of items to these.",
        ),
    ] = None,
    sample: Annotated[
        int, typer.Option(metavar="N", min=0, help="Items a modality to measure faithfulness on; 0: do not.")
    ] = 40,
    every: Annotated[
        bool, typer.Option("--all", help="Also show kinds of reasons that are no better than random ones.")
    ] = False,
    report: Report = None,
    max_pixels: MaxPixels = None,
    device: Device = "auto",
) -> None:
    """Say what predictions rest on: modalities, places, words, seconds, examples; and how far to believe it."""
    result = chiasm.explain(
        model,
        list(paths or ()),
        collection=collection,
        column=column,
        answer=answer,
        concepts=concepts,
        sample=sample,
        every=every,
        report=report,
        max_pixels=max_pixels,
        device=device,
    )
    document = result.as_dict()
    console.show(
        document,
        lambda: results.print_explanations(result, report),
        rows=document["explanations"] or document["classes"],
    )
    if paths and not result.explanations:
        console.say("no item could be used", err=True)
        raise typer.Exit(1)
