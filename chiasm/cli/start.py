"""The first panel of the help: from files to a collection, and to a page."""

from __future__ import annotations

import signal
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

import chiasm
from chiasm import console
from chiasm.cli import results
from chiasm.cli.parameters import App, CollectionPath, Device, Encoder, Licence, MaxPixels, Paths, Space
from chiasm.types import Outcome

app = App("Start")


@app.verb(
    "chiasm demo",
    "chiasm demo --path ~/photos --out tour",
    then='open chiasm-demo/report.html, or chiasm search chiasm-demo/collection "a red fruit"',
    doing="Showing the main job",
)
def demo(
    path: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Use this folder instead of Debian's Tux Paint stamps.")
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder for the collection, the models and the report.")
    ] = Path("chiasm-demo"),
) -> None:
    """Do the main job on a real corpus: add, search, align, fit, and write a report to look at."""
    from chiasm import demo as show

    result = show.run(path, out, say=console.remark)
    console.show(result, lambda: None)


@app.verb(
    "chiasm add photos --to photos.index",
    "chiasm add products.csv --to shop.index --strict",
    then='chiasm search photos.index "a red boat"',
    doing="Adding",
)
def add(
    paths: Paths,
    to: Annotated[Path, typer.Option("--to", metavar="COLLECTION", help="Where to; made where there is none.")],
    encoder: Encoder = None,
    licence: Licence = None,
    layout: Annotated[
        Literal["auto", "folder", "coco", "voc", "yolo", "labelstudio", "webdataset"],
        typer.Option(
            metavar="NAME", help="Which annotations of a folder are read; auto: those that are there, folder: none."
        ),
    ] = "auto",
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if any file is not ok; sidecars do not count.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove items that the folders and tables do not list any more.")
    ] = False,
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate", help="Say how long it would take and how large it would be, by a sample; add nothing."
        ),
    ] = False,
    max_pixels: MaxPixels = None,
    device: Device = "auto",
) -> None:
    """Store and embed what folders, tables and files list. Run again, it does only what is new."""
    if estimate:
        if strict or prune:
            raise typer.BadParameter("--estimate adds nothing, so it takes neither --strict nor --prune")
        cost = chiasm.estimate(
            list(paths), to=to, encoder=encoder, licence=licence, layout=layout, max_pixels=max_pixels, device=device
        )
        console.show(asdict(cost), lambda: results.print_estimate(cost))
        return
    report = chiasm.add(
        list(paths),
        to=to,
        encoder=encoder,
        licence=licence,
        layout=layout,
        prune=prune,
        max_pixels=max_pixels,
        device=device,
    )
    console.show(asdict(report), lambda: results.print_add_report(report, to))
    failures = [row for row in report.outcomes if row.outcome not in {Outcome.DUPLICATE, Outcome.NOT_READ}]
    if strict and failures:
        console.say(f"strict: {len(failures)} files are not ok", err=True)
        raise typer.Exit(1)
    if report.outcomes and not {Outcome.OK, Outcome.DUPLICATE} & report.counts.keys():
        console.say("no file could be used", err=True)
        raise typer.Exit(1)


@app.verb(
    "chiasm status photos.index",
    "chiasm status photos.index --json",
    then="what its last line says.",
)
def status(collection: CollectionPath) -> None:
    """Show what a collection holds."""
    report = chiasm.status(collection)
    console.show(report.as_dict(), lambda: results.print_status(report))


@app.verb(
    "chiasm serve photos.index --model birds --port 8080",
    "chiasm serve --collections collections --edit",
    then="open the address that it prints.",
)
def serve(
    collection: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="COLLECTION",
            help="Folders of the collections; each has an address.",
        ),
    ] = None,
    collections: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of collections: all in it are served, and with --edit made there."),
    ] = None,
    model: Annotated[Path | None, typer.Option(metavar="MODEL", help="Model to recognise with.")] = None,
    space: Space = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to listen; any but this machine's own needs keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0 takes a free one.")] = 8265,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Hashes of the keys that are let in, see make-key.")
    ] = None,
    host_names: Annotated[
        list[str] | None, typer.Option("--host-name", metavar="NAME", help="A name under which the server is reached.")
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, max=1024, help="Processes.")] = 1,
    rate: Annotated[
        float | None, typer.Option(metavar="N", min=0, max=1e9, help="Requests a second of one key.")
    ] = None,
    roots: Annotated[
        list[Path] | None,
        typer.Option(
            "--root", metavar="FOLDER", help="Folder whose files are given away. Default: those that add was given."
        ),
    ] = None,
    query_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to keep the texts of queries in.")
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=10**10,
            envvar="CHIASM_SERVE_MAX_PIXELS",
            help="Width times height above which an image that is sent is too large. Default: 40 million.",
        ),
    ] = None,
    edit: Annotated[
        bool, typer.Option("--edit", help="Let people add and remove items, align and fit on the page.")
    ] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    device: Device = "auto",
) -> None:
    """Serve a page for people and a REST API for programs."""
    try:
        chiasm.serve(
            collection or (),
            collections=collections,
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
            edit=edit,
            open_page=open_page,
            device=device,
        )
    except KeyboardInterrupt as stop:
        if stop.args != (signal.SIGTERM,):  # which asks a server to finish its requests and end: that is done
            raise
