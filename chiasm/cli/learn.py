"""The third panel of the help: what is learned from items, labels and verdicts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import chiasm
from chiasm import console
from chiasm.cli import complete, results
from chiasm.cli.parameters import (
    Alike,
    App,
    Balance,
    CollectionPath,
    Device,
    Group,
    Modalities,
    ModelPath,
    Names,
    Pairs,
    Report,
    Seed,
    Shares,
    Source,
    Target,
    Where,
    Who,
    modalities_of,
    number_or_auto,
    pair_of,
    pairs_of,
    takes_recipe,
)
from chiasm.privacy import DELTA, ITEM

app = App("Learn")


@app.verb(
    "chiasm align photos.index",
    "chiasm align talks.index --pairs audio,text --source other.index",
    then="chiasm evaluate photos.index, to see what it is worth.",
    doing="Aligning",
)
def align(
    collection: CollectionPath,
    pairs: Pairs = "image,text",
    method: Annotated[
        Literal["kernel", "ridge", "procrustes", "cca", "infonce", "none"] | None,
        typer.Option(
            metavar="NAME",
            help="How to learn. Default: kernel, or ridge with a statistics file; none learns only the meaning of scores.",
        ),
    ] = None,
    source: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Collection or statistics file to learn from as well (may be repeated), or a space to take over.",
        ),
    ] = None,
    alpha: Annotated[
        str, typer.Option(metavar="SHARE", help="Weight of the source: auto, or a number from 0 to 1.")
    ] = "auto",
    name: Annotated[str, typer.Option(metavar="SPACE", help="Name of the new space.")] = "aligned",
    where: Where = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Learn from items that have both modalities; search uses the result from then on."""
    report = chiasm.align(
        collection,
        pairs=pairs_of(pairs),
        method=method,
        source=source,
        alpha=number_or_auto(alpha, "--alpha"),
        name=name,
        where=where,
        seed=seed,
        device=device,
    )
    console.show(report.as_dict(), lambda: results.print_align_report(report, collection, source))


@app.verb(
    "chiasm fit photos.index --label species --out birds --report birds.html",
    "chiasm fit photos.index --label species --out birds --shots 5",
    then="chiasm predict birds new-photos",
    doing="Fitting",
)
def fit(
    collection: CollectionPath,
    label: Annotated[
        list[str],
        typer.Option(metavar="COLUMN", help="Column to predict; may be repeated.", autocompletion=complete.columns),
    ],
    out: Annotated[Path, typer.Option(metavar="MODEL", help="Folder to write the model to.")],
    task: Annotated[
        Literal["auto", "classes", "labels", "number"],
        typer.Option(metavar="KIND", help="What the column holds; auto looks at it."),
    ] = "auto",
    modalities: Modalities = None,
    shots: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Train on so many a class, measure on the rest.")
    ] = None,
    where: Where = None,
    group: Group = None,
    alike: Alike = 0.97,
    adapter: Annotated[
        Literal["auto", "zero-shot", "prototypes", "linear", "network"],
        typer.Option(metavar="RUNG", help="Rung of the ladder; auto climbs as far as it pays."),
    ] = "auto",
    fusion: Annotated[
        Literal["auto", "single", "mean", "stack", "concat", "gated", "attention"],
        typer.Option(metavar="NAME", help="How modalities are joined."),
    ] = "auto",
    names: Names = True,
    source: Source = None,
    space: Annotated[
        str | None, typer.Option(metavar="PATH", help="Space that another collection learned, to meet class names in.")
    ] = None,
    alpha: Annotated[
        str, typer.Option(metavar="SHARE", help="Weight of the source: auto, or a number from 0 to below 1.")
    ] = "auto",
    target: Target = None,
    shares: Shares = "auto",
    semi: Annotated[
        Literal["self-training", "spreading"] | None,
        typer.Option(metavar="HOW", help="Use items without a label, too."),
    ] = None,
    class_weight: Balance = None,
    tune: Annotated[
        int,
        typer.Option(min=0, max=100_000, metavar="N", help="Search hyperparameters in N trials; run again to go on."),
    ] = 0,
    sampler: Annotated[Literal["tpe", "random"], typer.Option(metavar="HOW", help="How the search draws.")] = "tpe",
    finetune: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES", min=0, max=100_000, help="Train the encoder further as well, if that wins in the time."
        ),
    ] = None,
    nested: Annotated[
        bool,
        typer.Option("--nested", help="Measure by five outer folds in which all is fitted anew: slower, unbiased."),
    ] = False,
    also: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="Extra experiments: learning-curve, held-out-classes, incremental, random-split, balance.",
        ),
    ] = "",
    log_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for TensorBoard's logs of the networks.")
    ] = None,
    report: Report = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            metavar="E",
            min=0,
            max=100,
            help="Differential privacy: the most that one item may show, such as 1, 3 or 8.",
        ),
    ] = None,
    delta: Annotated[
        float, typer.Option(metavar="D", min=0, max=1, help="Probability with which that may not hold.")
    ] = DELTA,
    unit: Annotated[
        str,
        typer.Option(
            metavar="COLUMN", help="With --epsilon: promise it to each value of this column, not to each item."
        ),
    ] = ITEM,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a recogniser on labelled items, in seconds, and measure it on items it did not see."""
    result = chiasm.fit(
        collection,
        label=label,
        out=out,
        task=task,
        modalities=modalities_of(modalities),
        shots=shots,
        where=where,
        group=group,
        alike=alike,
        adapter=adapter,
        fusion=fusion,
        names=names,
        source=source,
        space=space,
        alpha=number_or_auto(alpha, "--alpha"),
        target=target,
        shares=shares,
        semi=semi,
        class_weight=class_weight,
        tune=tune,
        sampler=sampler,
        nested=nested,
        finetune=finetune,
        also=tuple(name for name in also.split(",") if name),  # type: ignore[misc]  # the verb says which there are
        log_dir=log_dir,
        report=report,
        epsilon=epsilon,
        delta=delta,
        unit=unit,
        seed=seed,
        device=device,
    )
    console.show(result.as_dict(), lambda: results.print_fit_report(result, report))


@app.verb(
    "chiasm finetune photos.index --label species --out encoder",
    "chiasm finetune photos.index --pairs image,text --out encoder --epochs 4",
    then="chiasm reembed photos.index --encoder encoder",
    doing="Fine-tuning",
)
@takes_recipe
def finetune(
    collection: CollectionPath,
    out: Annotated[Path, typer.Option(metavar="ENCODER", help="Folder to write the encoder to; a new one.")],
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Column to learn; repeat it for several, learned by one network.",
            autocompletion=complete.columns,
        ),
    ] = None,
    pairs: Annotated[
        str | None, typer.Option(metavar="A,B", help="Instead of a label: two modalities to find each other by.")
    ] = None,
    modalities: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Whose networks are trained. Default: pictures and texts, where there are any."
        ),
    ] = None,
    source: Source = None,
    folds: Annotated[int, typer.Option(metavar="N", min=2, help="Parts of the items that are held out in turn.")] = 3,
    where: Where = None,
    group: Group = None,
    alike: Alike = 0.97,
    keep: Annotated[bool, typer.Option("--keep", help="Write the encoder even if it is not better.")] = False,
    report_to: Annotated[str, typer.Option(metavar="A,B", help="Trackers: tensorboard, wandb, mlflow.")] = "",
    report: Report = None,
    device: Device = "auto",
    **options: Any,
) -> None:
    """Train an encoder further on labels or pairs, in minutes; written only if it is better than the frozen one."""
    result = chiasm.finetune(
        collection,
        label=label,
        pairs=None if pairs is None else pair_of(pairs),
        out=out,
        modalities=modalities_of(modalities),
        source=source,
        folds=folds,
        where=where,
        group=group,
        alike=alike,
        keep=keep,
        report_to=tuple(name for name in report_to.split(",") if name),
        report=report,
        device=device,
        on_message=console.note,
        **{name: value for name, value in options.items() if value is not None},
    )
    if int(os.environ.get("RANK", "0")):  # of torchrun: the first process speaks for all
        return
    console.show(result.as_dict(), lambda: results.print_finetune_report(result, collection, report))


@app.verb(
    'chiasm feedback photos.index boats/17 --verdict up --query "a red boat"',
    'chiasm feedback photos.index cars/3 --verdict down --query "a red boat"',
    then='chiasm search photos.index "a red boat" --liked boats/17',
)
def feedback(
    collection: CollectionPath,
    items: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of hits.", autocompletion=complete.ids)],
    verdict: Annotated[Literal["up", "down"], typer.Option(metavar="THUMB", help="Whether they were right.")],
    query: Annotated[str, typer.Option(metavar="WORDS", help="The words that were searched with.")] = "",
    who: Who = "me",
) -> None:
    """Record thumbs up or down on search results."""
    counts = chiasm.feedback(collection, items, verdict=verdict, query=query, who=who)
    console.show(counts, lambda: results.print_counts(counts))


@app.verb(
    "chiasm labels photos.index boats/17 --column species --label gull",
    "chiasm labels photos.index boats/18 --column species --label unknown",
    then="chiasm learn birds photos.index",
)
def labels(
    collection: CollectionPath,
    items: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of items.", autocompletion=complete.ids)],
    column: Annotated[str, typer.Option(metavar="COLUMN", help="The label column.", autocompletion=complete.columns)],
    label: Annotated[str, typer.Option(metavar="CLASS", help="What they truly are; unknown: none of the classes.")],
    who: Who = "me",
) -> None:
    """Record the right labels of items, for learn."""
    counts = chiasm.labels(collection, items, column=column, label=label, who=who)
    console.show(counts, lambda: results.print_counts(counts))


@app.verb(
    "chiasm learn birds photos.index",
    "chiasm learn birds photos.index --no-switch",
    then="chiasm revert birds, if it turns out worse.",
    doing="Learning",
)
def learn(
    model: ModelPath,
    collection: CollectionPath,
    unseen: Annotated[
        Literal["auto", "compare", "learn"],
        typer.Option(
            metavar="HOW", help="Labelled items that the model has not seen: compare with them, or learn from them."
        ),
    ] = "auto",
    names: Names = True,
    source: Annotated[
        list[Path] | None,
        typer.Option(metavar="COLLECTION", help="The source that it was fitted with; may be repeated."),
    ] = None,
    group: Group = None,
    alike: Alike = 0.97,
    switch: Annotated[
        bool, typer.Option("--switch/--no-switch", help="Replace the old model unless the new one is worse.")
    ] = True,
    device: Device = "auto",
) -> None:
    """Retrain a model with corrected labels; it replaces the old one if it is better."""
    report = chiasm.learn(
        model,
        collection,
        unseen=unseen,
        names=names,
        source=source,
        group=group,
        alike=alike,
        switch=switch,
        device=device,
    )
    console.show(report.as_dict(), lambda: results.print_learn_report(report))
