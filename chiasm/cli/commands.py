"""The commands: one a verb, with the same names.

Every command takes `--json`: one JSON document on standard output, everything else on standard error. What they do is the
verbs' business, what they print is `console`'s, how they end is `chiasm.cli`'s.
"""

from __future__ import annotations

import os
import signal
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

import chiasm
from chiasm import __version__, console
from chiasm.cli.parameters import (
    App,
    CollectionPath,
    Device,
    Json,
    Licence,
    MaxPixels,
    ModelPath,
    Pairs,
    Seed,
    Space,
    Where,
    modality_of,
    number_or_auto,
    pair_of,
    pairs_of,
)
from chiasm.types import MODALITIES, Outcome

_MOST = 2**31 - 1  # of whatever is counted: more fits into no table of ours


app = App(
    name="chiasm",
    help="Search and recognise images, texts, sounds and videos, with pretrained encoders and the few labels you have.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def add(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Folders, tables (CSV, JSONL, Parquet), files.")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="COLLECTION", help="Where to; made where there is none.")],
    encoder: Annotated[
        str | None, typer.Option(help="offline, a hub id or a model folder. Default: the collection's, or offline.")
    ] = None,
    licence: Licence = None,
    layout: Annotated[
        Literal["auto", "folder", "coco", "voc", "yolo", "labelstudio", "webdataset"],
        typer.Option(help="Which annotations of a folder are read; auto: those that are there, folder: none."),
    ] = "auto",
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if any file is not ok; sidecars do not count.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove items that the folders and tables do not list any more.")
    ] = False,
    max_pixels: MaxPixels = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Store and embed what folders, tables and files list. Run again, it does only what is new."""
    with console.file_progress() as on_progress:
        report = chiasm.add(
            list(paths),
            to=to,
            encoder=encoder,
            licence=licence,
            layout=layout,
            prune=prune,
            max_pixels=max_pixels,
            device=device,
            on_progress=on_progress,
        )
    document = asdict(report)
    document = {**document.pop("counts"), **document}
    console.show(document, as_json, lambda: console.print_add_report(report, to))
    failures = [row for row in report.outcomes if row.outcome not in {Outcome.DUPLICATE, Outcome.NOT_READ}]
    if strict and failures:
        console.say(f"strict: {len(failures)} files are not ok", err=True)
        raise typer.Exit(1)
    if report.outcomes and not {Outcome.OK, Outcome.DUPLICATE} & report.counts.keys():
        console.say("no file could be used", err=True)
        raise typer.Exit(1)


@app.command()
def status(collection: CollectionPath, as_json: Json = False) -> None:
    """Show what a collection holds."""
    report = chiasm.status(collection)
    console.show(report.as_dict(), as_json, lambda: console.print_status(report))


@app.command()
def remove(
    collection: CollectionPath,
    where: Annotated[str, typer.Option(metavar="CONDITION", help="Which items, e.g. \"id = 'animals/bird'\".")],
    as_json: Json = False,
) -> None:
    """Delete items with their outcomes and vectors (the files themselves stay)."""
    count = chiasm.remove(collection, where=where)
    console.show({"removed": count}, as_json, lambda: console.say(f"{count} items removed from {collection}"))


@app.command()
def export(
    collection: CollectionPath,
    out: Annotated[Path, typer.Option(metavar="PATH", help="A .csv or .parquet file, or a new folder.")],
    format: Annotated[  # noqa: A002  # its name in every tool
        Literal["auto", "csv", "parquet", "imagefolder", "coco", "fiftyone", "labelstudio"],
        typer.Option(help="auto: by the suffix; the others are folders with copies of the files."),
    ] = "auto",
    label: Annotated[str, typer.Option(metavar="COLUMN", help="Column of labels, for folders.")] = "label",
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Write items as a table, or as a folder that another tool reads."""
    report = chiasm.export(collection, out=out, format=format, label=label, where=where)
    console.show(report.as_dict(), as_json, lambda: console.print_export_report(report))


@app.command()
def reembed(
    collection: CollectionPath,
    encoder: Annotated[str, typer.Option(help="The new one: offline, a hub id or a model folder.")],
    licence: Licence = None,
    max_pixels: MaxPixels = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Embed all files with another encoder. Searches go on with the old one until the new one takes over."""
    with console.file_progress() as on_progress:
        report = chiasm.reembed(
            collection,
            encoder=encoder,
            licence=licence,
            max_pixels=max_pixels,
            device=device,
            on_progress=on_progress,
        )
    console.show(report.as_dict(), as_json, lambda: console.print_reembed_report(report, collection))


@app.command()
def search(
    collection: CollectionPath,
    text: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="Search with a picture; may be given several times.")] = None,
    audio: Annotated[list[Path] | None, typer.Option(help="Search with a sound.")] = None,
    video: Annotated[list[Path] | None, typer.Option(help="Search with a video.")] = None,
    minus: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="What is not wanted, in words.")] = None,
    minus_image: Annotated[list[Path] | None, typer.Option(help="What is not wanted, as a picture.")] = None,
    like: Annotated[list[str] | None, typer.Option(metavar="ID", help="Find more like an item.")] = None,
    liked: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="A hit that was right; it is not shown again.")
    ] = None,
    disliked: Annotated[list[str] | None, typer.Option(metavar="ID", help="A hit that was wrong.")] = None,
    k: Annotated[int, typer.Option("--k", min=1, max=_MOST, help="Hits at the most.")] = 10,
    offset: Annotated[int, typer.Option(min=0, max=_MOST, help="Hits to pass over: those of the pages before.")] = 0,
    modality: Annotated[
        str | None, typer.Option(help="Find items by these files only: " + ", ".join(MODALITIES))
    ] = None,
    where: Where = None,
    min_probability: Annotated[
        str | None, typer.Option(metavar="auto|P", help="Leave out hits that are less probably relevant.")
    ] = None,
    metric: Annotated[
        Literal["auto", "cosine", "dot", "l2"],
        typer.Option(help="Order hits by one metric alone; auto: what align has learned, else cosine."),
    ] = "auto",
    hybrid: Annotated[bool, typer.Option("--hybrid", help="Go by the words in texts and transcripts, too.")] = False,
    rerank: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Cross-encoder (hub id or folder) that reads query and hits.")
    ] = None,
    diversity: Annotated[float, typer.Option(min=0, max=1, help="How much hits are to differ from each other.")] = 0.0,
    space: Space = None,
    max_pixels: MaxPixels = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find items by words, pictures, sounds and videos, alone or together, and away from what is not wanted."""
    result = chiasm.search(
        collection,
        text,
        image=image,
        audio=audio,
        video=video,
        minus=minus,
        minus_image=minus_image,
        like=like,
        liked=liked or (),
        disliked=disliked or (),
        k=k,
        offset=offset,
        modality=modality_of(modality) if modality is not None else None,
        where=where,
        min_probability=None if min_probability is None else number_or_auto(min_probability, "--min-probability"),
        metric=metric,
        hybrid=hybrid,
        rerank=rerank,
        diversity=diversity,
        space=space,
        max_pixels=max_pixels,
        device=device,
    )
    console.show(result.as_dict(), as_json, lambda: console.print_search_result(result))


@app.command()
def align(
    collection: CollectionPath,
    pairs: Pairs = "image,text",
    method: Annotated[
        Literal["kernel", "ridge", "procrustes", "cca", "infonce", "none"] | None,
        typer.Option(
            help="How to learn. Default: kernel, or ridge with a statistics file; none learns only the meaning of scores."
        ),
    ] = None,
    source: Annotated[
        Path | None, typer.Option(help="Collection or statistics file to learn from as well, or a space to take over.")
    ] = None,
    alpha: Annotated[str, typer.Option(help="Weight of the source: auto, or a number from 0 to 1.")] = "auto",
    name: Annotated[str, typer.Option(help="Name of the new space.")] = "aligned",
    where: Where = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
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
    console.show(report.as_dict(), as_json, lambda: console.print_align_report(report, collection, source))


@app.command()
def statistics(
    collection: CollectionPath,
    out: Annotated[Path, typer.Option(help="File to write (.safetensors).")],
    pairs: Pairs = "image,text",
    where: Where = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write what `align --source` needs of this collection, without its data."""
    count = chiasm.statistics(collection, out=out, pairs=pair_of(pairs), where=where, device=device)
    console.show(
        {"pairs": count, "path": str(out)},
        as_json,
        lambda: console.say(f"Statistics of {count} pairs are in {out}. Use them: chiasm align OTHER --source {out}"),
    )


@app.command()
def fit(
    collection: CollectionPath,
    label: Annotated[str, typer.Option(metavar="COLUMN", help="Column to predict, or several: A,B.")],
    out: Annotated[Path, typer.Option(metavar="MODEL", help="Folder to write the model to.")],
    task: Annotated[
        Literal["auto", "classes", "labels", "number"], typer.Option(help="What the column holds; auto looks at it.")
    ] = "auto",
    modalities: Annotated[str | None, typer.Option(help="E.g. image,text. Default: all that the items have.")] = None,
    shots: Annotated[
        int | None, typer.Option(min=1, max=_MOST, help="Train on so many a class, measure on the rest.")
    ] = None,
    where: Where = None,
    group: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Its values keep items on one side of every split.")
    ] = None,
    alike: Annotated[
        float,
        typer.Option(min=0, max=1, help="Cosine from which files count as near-duplicates, kept on one side as well."),
    ] = 0.97,
    adapter: Annotated[
        Literal["auto", "zero-shot", "prototypes", "linear", "network"],
        typer.Option(help="Rung of the ladder; auto climbs as far as it pays."),
    ] = "auto",
    fusion: Annotated[
        Literal["auto", "single", "mean", "stack", "concat", "gated", "attention"],
        typer.Option(help="How modalities are joined."),
    ] = "auto",
    names: Annotated[
        bool, typer.Option("--names/--no-names", help="Count the name of each class as one more example.")
    ] = True,
    source: Annotated[
        Path | None,
        typer.Option(metavar="COLLECTION", help="Another domain with the same column, to learn from as well."),
    ] = None,
    space: Annotated[
        str | None, typer.Option(metavar="PATH", help="Space that another collection learned, to meet class names in.")
    ] = None,
    alpha: Annotated[str, typer.Option(help="Weight of the source: auto, or a number from 0 to below 1.")] = "auto",
    target: Annotated[
        Path | None,
        typer.Option(metavar="COLLECTION", help="Another domain without labels, to be good at; unless it could hurt."),
    ] = None,
    shares: Annotated[
        Literal["auto", "same", "other"],
        typer.Option(help="Whether the classes are as frequent in the target; auto: go by what is predicted."),
    ] = "auto",
    semi: Annotated[
        Literal["self-training", "spreading"] | None, typer.Option(help="Use items without a label, too.")
    ] = None,
    class_weight: Annotated[
        Literal["balanced"] | None, typer.Option(help="balanced: every class weighs the same.")
    ] = None,
    tune: Annotated[
        int,
        typer.Option(min=0, max=100_000, metavar="N", help="Search hyperparameters in N trials; run again to go on."),
    ] = 0,
    sampler: Annotated[Literal["tpe", "random"], typer.Option(help="How the search draws.")] = "tpe",
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
    log_dir: Annotated[Path | None, typer.Option(help="Folder for TensorBoard's logs of the networks.")] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="F.html", help="Also write a report: .html, .md or .json.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train a recogniser on labelled items, in seconds, and measure it on items it did not see."""
    chosen = None if modalities is None else [modality_of(part) for part in modalities.split(",")]
    with console.trial_progress(tune) as on_trial:
        result = chiasm.fit(
            collection,
            label=label,
            out=out,
            task=task,
            modalities=chosen,
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
            also=tuple(name for name in also.split(",") if name),  # type: ignore[misc]  # the verb says which there are
            log_dir=log_dir,
            report=report,
            on_trial=on_trial,
            seed=seed,
            device=device,
        )
    console.show(result.as_dict(), as_json, lambda: console.print_fit_report(result))
    if report is not None:
        console.say(f"Report: {report}", err=as_json)


@app.command()
def finetune(
    collection: CollectionPath,
    label: Annotated[str, typer.Option(metavar="COLUMN", help="Column of classes to learn.")],
    out: Annotated[Path, typer.Option(metavar="ENCODER", help="Folder to write the encoder to; a new one.")],
    modalities: Annotated[
        str | None, typer.Option(help="Whose networks are trained. Default: pictures and texts, where there are any.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(metavar="COLLECTION", help="Another domain with the same column, to learn from as well."),
    ] = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Weight of the source in the loss.")] = 0.5,
    strategy: Annotated[
        Literal["joint", "alternating"],
        typer.Option(help="Source and target at once, or in turn: the source trains the network, the target the head."),
    ] = "joint",
    method: Annotated[
        Literal["lora", "blocks", "norms", "full"],
        typer.Option(help="Low-rank changes, everything or biases and norms of the last blocks; or the whole network."),
    ] = "lora",
    blocks: Annotated[
        int | None, typer.Option(min=1, max=_MOST, help="How many last blocks. Default: a third.")
    ] = None,
    rank: Annotated[int, typer.Option(min=1, max=_MOST, help="Rank of low-rank changes.")] = 8,
    epochs: Annotated[int, typer.Option(min=1, max=_MOST, help="Passes over the items at most.")] = 8,
    batch_size: Annotated[int, typer.Option(min=1, max=_MOST, help="Items a step.")] = 32,
    rate: Annotated[float | None, typer.Option(min=0, max=1, help="Learning rate. Default: by the method.")] = None,
    head_rate: Annotated[float, typer.Option(min=0, max=1, help="Learning rate of the classifier on top.")] = 1e-2,
    weight_decay: Annotated[float, typer.Option(min=0, max=1, help="Of matrices.")] = 1e-2,
    warmup: Annotated[float, typer.Option(min=0, max=1, help="Share of the steps in which the rate rises.")] = 0.1,
    label_smoothing: Annotated[float, typer.Option(min=0, max=0.99, help="Share of the target for all classes.")] = 0.1,
    focal: Annotated[float, typer.Option(min=0, max=10, help="Exponent of the focal loss; 0: cross-entropy.")] = 0.0,
    class_weight: Annotated[
        Literal["balanced"] | None, typer.Option(help="balanced: every class weighs the same.")
    ] = None,
    mixup: Annotated[float, typer.Option(min=0, max=10, help="Parameter of MixUp of pictures; 0: none.")] = 0.2,
    views: Annotated[int, typer.Option(min=0, max=1000, help="Changed copies of every file.")] = 4,
    average: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the trained weights in the average with the first ones.")
    ] = 0.5,
    patience: Annotated[int, typer.Option(min=1, max=_MOST, help="Epochs without a gain after which it stops.")] = 3,
    folds: Annotated[int, typer.Option(min=2, max=_MOST, help="Parts of the items that are held out in turn.")] = 3,
    where: Where = None,
    group: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Its values keep items on one side of every split.")
    ] = None,
    alike: Annotated[
        float,
        typer.Option(min=0, max=1, help="Cosine from which files count as near-duplicates, kept on one side as well."),
    ] = 0.97,
    keep: Annotated[bool, typer.Option("--keep", help="Write the encoder even if it is not better.")] = False,
    report_to: Annotated[str, typer.Option(metavar="A,B", help="Trackers: tensorboard, wandb, mlflow.")] = "",
    report: Annotated[
        Path | None, typer.Option(metavar="F.html", help="Also write a report: .html, .md or .json.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train an encoder further on labels, in minutes; written only if it is better than the frozen one."""
    result = chiasm.finetune(
        collection,
        label=label,
        out=out,
        modalities=None if modalities is None else [modality_of(part) for part in modalities.split(",")],
        source=source,
        alpha=alpha,
        strategy=strategy,
        method=method,
        blocks=blocks,
        rank=rank,
        epochs=epochs,
        batch_size=batch_size,
        rate=rate,
        head_rate=head_rate,
        weight_decay=weight_decay,
        warmup=warmup,
        label_smoothing=label_smoothing,
        focal=focal,
        class_weight=class_weight,
        mixup=mixup,
        views=views,
        average=average,
        patience=patience,
        folds=folds,
        where=where,
        group=group,
        alike=alike,
        keep=keep,
        report_to=tuple(name for name in report_to.split(",") if name),
        report=report,
        seed=seed,
        device=device,
        on_message=partial(console.say, err=True),
    )
    if int(os.environ.get("RANK", "0")):  # of torchrun: the first process speaks for all
        return
    console.show(result.as_dict(), as_json, lambda: console.print_finetune_report(result, collection))
    if report is not None:
        console.say(f"Report: {report}", err=as_json)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder that fit wrote.")],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Folders, tables, files.")],
    level: Annotated[
        float, typer.Option(min=0, max=1, help="How often an item's set of classes is to hold the true one.")
    ] = 0.9,
    false_alarm_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Share of known items that may be called unknown.")
    ] = 0.05,
    max_pixels: MaxPixels = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Recognise what is in files. Items may have any subset of the modalities that the model knows."""
    with console.file_progress() as on_progress:
        result = chiasm.predict(
            model,
            list(paths),
            level=level,
            false_alarm_rate=false_alarm_rate,
            max_pixels=max_pixels,
            device=device,
            on_progress=on_progress,
        )
    console.show(result.as_dict(), as_json, lambda: console.print_predictions(result))
    if result.predictions and all(row.label is None for row in result.predictions):
        console.say("no item could be used", err=True)
        raise typer.Exit(1)


@app.command()
def evaluate(
    target: Annotated[Path, typer.Argument(metavar="COLLECTION|MODEL", help="What to measure.")],
    collection: Annotated[
        Path | None, typer.Argument(metavar="[COLLECTION]", help="For a model: where the labelled items are.")
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
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="For a model: the column with the truth.")] = None,
    where: Where = None,
    against: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="For a model: another one, on the same items.")
    ] = None,
    on: Annotated[
        Literal["auto", "folds", "training"],
        typer.Option(
            help="auto: what was not learned from, else folds: each item by what was learned without it; training: all."
        ),
    ] = "auto",
    report: Annotated[
        Path | None, typer.Option(metavar="F.html", help="Also write a report: .html, .md or .json.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
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
    console.show(result.as_dict(), as_json, lambda: console.print_evaluation(result))
    if report is not None:
        console.say(f"Report: {report}", err=as_json)


@app.command()
def feedback(
    collection: CollectionPath,
    items: Annotated[list[str], typer.Argument(help="Ids of hits.")],
    verdict: Annotated[Literal["up", "down"], typer.Option(help="Whether they were right.")],
    query: Annotated[str, typer.Option(help="The words that were searched with.")] = "",
    who: Annotated[str, typer.Option(help="Whose verdict it is.")] = "me",
    as_json: Json = False,
) -> None:
    """Record thumbs up or down on search results."""
    counts = chiasm.feedback(collection, items, verdict=verdict, query=query, who=who)
    console.show(counts, as_json, lambda: console.print_counts(counts))


@app.command()
def labels(
    collection: CollectionPath,
    items: Annotated[list[str], typer.Argument(help="Ids of items.")],
    column: Annotated[str, typer.Option(help="The label column.")],
    label: Annotated[str, typer.Option(help="What they truly are; unknown: none of the classes.")],
    who: Annotated[str, typer.Option(help="Whose verdict it is.")] = "me",
    as_json: Json = False,
) -> None:
    """Record the right labels of items, for learn."""
    counts = chiasm.labels(collection, items, column=column, label=label, who=who)
    console.show(counts, as_json, lambda: console.print_counts(counts))


@app.command()
def learn(
    model: ModelPath,
    collection: CollectionPath,
    unseen: Annotated[
        Literal["auto", "compare", "learn"],
        typer.Option(help="Labelled items that the model has not seen: compare with them, or learn from them."),
    ] = "auto",
    names: Annotated[
        bool, typer.Option("--names/--no-names", help="Count the name of each class as one more example.")
    ] = True,
    source: Annotated[
        Path | None, typer.Option(metavar="COLLECTION", help="The source that it was fitted with.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Keep items with the same value on one side of every split.")
    ] = None,
    alike: Annotated[
        float, typer.Option(min=0, max=1, help="Cosine from which pictures, sounds and videos are near-duplicates.")
    ] = 0.97,
    switch: Annotated[
        bool, typer.Option("--switch/--no-switch", help="Replace the old model unless the new one is worse.")
    ] = True,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Retrain a model with corrected labels; it replaces the old one unless it is worse."""
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
    console.show(report.as_dict(), as_json, lambda: console.print_learn_report(report))


@app.command()
def revert(
    target: Annotated[Path, typer.Argument(metavar="MODEL|COLLECTION", help="Of a collection, its space.")],
    space: Annotated[str | None, typer.Option(help="Name of the collection's space. Default: the newest.")] = None,
    as_json: Json = False,
) -> None:
    """Bring back the model that learn or fit replaced, or the space that align did."""
    version = chiasm.revert(target, space=space)
    console.show({"version": version}, as_json, lambda: console.say(f"{target} is back at version {version}"))


@app.command()
def drift(
    model: ModelPath,
    collection: CollectionPath,
    where: Where = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure how far the items of a collection lie from those that a model was trained on."""
    report = chiasm.drift(model, collection, where=where, device=device)
    console.show(report.as_dict(), as_json, lambda: console.print_drift_report(report))


@app.command()
def serve(
    collection: CollectionPath,
    model: Annotated[Path | None, typer.Option(help="Model to recognise with.")] = None,
    space: Space = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8265,
    api_key_file: Annotated[Path | None, typer.Option(help="Hashes of the keys that are let in, see make-key.")] = None,
    host_names: Annotated[
        list[str] | None, typer.Option("--host-name", help="A name under which the server is reached.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=1024, help="Processes.")] = 1,
    rate: Annotated[float | None, typer.Option(min=0, max=1e9, help="Requests a second of one key.")] = None,
    roots: Annotated[
        list[Path] | None,
        typer.Option("--root", help="Folder whose files are given away. Default: those that add was given."),
    ] = None,
    query_log: Annotated[Path | None, typer.Option(help="File to keep the texts of queries in.")] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10**10,
            envvar="CHIASM_SERVE_MAX_PIXELS",
            help="Width times height above which an image that is sent is too large. Default: 40 million.",
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Serve a page for people and a REST API for programs."""
    try:
        chiasm.serve(
            collection,
            model=model,
            space=space,
            host=host,
            port=port,
            api_key_file=api_key_file,
            host_names=host_names or (),
            workers=workers,
            rate=rate,
            roots=roots or (),
            query_log=query_log,
            max_pixels=max_pixels,
            device=device,
        )
    except KeyboardInterrupt as stop:
        if stop.args != (signal.SIGTERM,):  # which asks a server to finish its requests and end: that is done
            raise


@app.command()
def make_key(
    file: Annotated[Path, typer.Argument(help="File that keeps the hashes of keys.")],
    name: Annotated[str, typer.Option(help="Name of the key, for the log.")] = "default",
    as_json: Json = False,
) -> None:
    """Make an API key for serve; it is shown once."""
    key = chiasm.make_key(file, name=name)
    console.show({"key": key, "name": name}, as_json, lambda: console.say(key))


@app.command()
def demo(
    path: Annotated[Path | None, typer.Option(help="Use this folder instead of Debian's Tux Paint stamps.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the collection, the models and the report.")] = Path(
        "chiasm-demo"
    ),
    as_json: Json = False,
) -> None:
    """Do the main job on a real corpus: add, search, align, fit, and write a report to look at."""
    from chiasm import demo as show

    with console.file_progress() as on_progress:
        result = show.run(path, out, say=partial(console.say, err=as_json), on_progress=on_progress)
    if as_json:
        console.print_json(result)


# ----------------------------------------------------------------------------------------------------------- shared


def _version(wanted: bool) -> None:
    if wanted:
        console.say(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Search and recognise images, texts, sounds and videos, with pretrained encoders and a few labels."""
