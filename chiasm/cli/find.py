"""The second panel of the help: what is asked of a collection and of a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

import chiasm
from chiasm import console
from chiasm.cli import complete, results
from chiasm.cli.parameters import (
    App,
    CollectionPath,
    Device,
    MaxPixels,
    Paths,
    Space,
    Where,
    modality_of,
    number_or_auto,
)
from chiasm.types import MODALITIES

app = App("Find")


@app.verb(
    'chiasm search photos.index "a red boat" --k 20',
    'chiasm search photos.index --image boat.jpg --where "year > 1990"',
    then="chiasm align photos.index, so that hits have a probability.",
    rows=True,
)
def search(
    collection: CollectionPath,
    text: Annotated[str | None, typer.Argument(metavar="WORDS", help="What to look for.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Search with a picture; may be given several times.")
    ] = None,
    audio: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Search with a sound.")] = None,
    video: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Search with a video.")] = None,
    minus: Annotated[list[str] | None, typer.Option(metavar="WORDS", help="What is not wanted.")] = None,
    minus_image: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="What is not wanted, as a picture.")
    ] = None,
    like: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Find more like an item.", autocompletion=complete.ids)
    ] = None,
    liked: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="A hit that was right; it is not shown again.", autocompletion=complete.ids),
    ] = None,
    disliked: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="A hit that was wrong.", autocompletion=complete.ids)
    ] = None,
    k: Annotated[int, typer.Option("--k", metavar="N", min=1, help="Hits at the most.")] = 10,
    offset: Annotated[int, typer.Option(metavar="N", min=0, help="Hits to pass over: those of the pages before.")] = 0,
    modality: Annotated[
        str | None, typer.Option(metavar="KIND", help="Find items by these files only: " + ", ".join(MODALITIES))
    ] = None,
    where: Where = None,
    min_probability: Annotated[
        str | None,
        typer.Option(
            metavar="P", help="Leave out hits that are less probably relevant; auto: where nothing was found, all."
        ),
    ] = None,
    metric: Annotated[
        Literal["auto", "cosine", "dot", "l2"],
        typer.Option(metavar="NAME", help="Order hits by one metric alone; auto: what align has learned, else cosine."),
    ] = "auto",
    hybrid: Annotated[bool, typer.Option("--hybrid", help="Go by the words in texts and transcripts, too.")] = False,
    rerank: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Cross-encoder (hub id or folder) that reads query and hits.")
    ] = None,
    diversity: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=1, help="How much hits are to differ from each other.")
    ] = 0.0,
    space: Space = None,
    max_pixels: MaxPixels = None,
    device: Device = "auto",
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
    document = result.as_dict()
    console.show(document, lambda: results.print_search_result(result), rows=document["hits"])


@app.verb(
    "chiasm predict birds new-photos",
    "chiasm predict birds new-photos --out birds.csv",
    then="chiasm labels, for those that are wrong.",
    doing="Recognising",
    rows=True,
)
def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Folder that fit wrote, or .chiasm file of export; with --encrypted address of a server.",
        ),
    ],
    paths: Paths,
    level: Annotated[
        float,
        typer.Option(metavar="SHARE", min=0, max=1, help="How often an item's set of classes is to hold the true one."),
    ] = 0.9,
    false_alarm_rate: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=1, help="Share of known items that may be called unknown.")
    ] = 0.05,
    encrypted: Annotated[
        bool,
        typer.Option(
            "--encrypted",
            help="Ask the model of a server, which sees neither the items nor the answers; its key is in CHIASM_API_KEY.",
        ),
    ] = False,
    encoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --encrypted: embeds the items here. Default: offline.")
    ] = None,
    max_pixels: MaxPixels = None,
    device: Device = "auto",
) -> None:
    """Recognise what is in files. Items may have any subset of the modalities that the model knows."""
    result = chiasm.predict(
        model,
        list(paths),
        level=level,
        false_alarm_rate=false_alarm_rate,
        encrypted=encrypted,
        encoder=encoder,
        api_key=os.environ.get("CHIASM_API_KEY") if encrypted else None,
        max_pixels=max_pixels,
        device=device,
    )
    document = result.as_dict()
    console.show(document, lambda: results.print_predictions(result), rows=document["predictions"])
    if result.predictions and all(row.label is None for row in result.predictions):
        console.say("no item could be used", err=True)
        raise typer.Exit(1)
