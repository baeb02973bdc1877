"""The fifth panel of the help: what changes or takes away what is there, and keys."""

from __future__ import annotations

import sys
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
    Licence,
    MaxPixels,
    Modalities,
    Pairs,
    Report,
    Where,
    modalities_of,
    pair_of,
)

app = App("Manage")


@app.verb(
    "chiasm remove photos.index --where \"folder = 'trash'\" --dry-run",
    "chiasm remove photos.index --where \"id = 'boats/17'\" --forget --yes",
    then="chiasm status photos.index",
)
def remove(
    collection: CollectionPath,
    where: Annotated[str, typer.Option(metavar="CONDITION", help="Which items, e.g. \"id = 'animals/bird'\".")],
    forget: Annotated[
        bool,
        typer.Option("--forget", help="For good: also from earlier versions, indexes, feedback, caches and models."),
    ] = False,
    model: Annotated[
        list[Path] | None,
        typer.Option(metavar="MODEL", help="Of --forget: a model that may have learned from them. Repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete items with their outcomes and vectors (the files themselves stay)."""
    if model and not forget:
        raise typer.BadParameter("--model goes with --forget: without it nothing is taken out of models")
    ids = chiasm.Collection.open(collection).ids(where=where)
    report, learned = None, {}
    if not dry_run:
        if ids and not yes:
            _ask(f"{'Forget' if forget else 'Remove'} {len(ids)} items from {collection}: {console.some(ids)}?")
        report = chiasm.remove(collection, where=where, forget=forget, model=model or ())
        ids = [*report.items]
        learned = {name: value for name, value in report.as_dict().items() if name != "items"} if forget else {}
    console.show(
        {"removed": 0 if dry_run else len(ids), "ids": ids, "dry_run": dry_run, **learned},
        lambda: results.print_remove_report(collection, ids, report if forget else None, dry_run=dry_run),
    )


def _ask(question: str) -> None:
    """Go on only if a person at the terminal says so."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise typer.BadParameter(f"{question} Nobody is there to be asked: say --yes, or look first with --dry-run")
    if not typer.confirm(console.printable(question), err=True):
        console.note("Nothing was removed.")
        raise typer.Exit(1)


@app.verb(
    "chiasm export photos.index --out photos-coco --format coco --label species",
    "chiasm export cats --out cats.chiasm --int8",
    then="open it with the other tool; chiasm add reads tables back, python cats.chiasm FILE runs.",
    doing="Writing",
)
def export(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="Folder of a collection or, for .chiasm, .onnx and .html, of a model."),
    ],
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="A .csv, .parquet, .chiasm, .onnx or .html file, or a new folder.")
    ],
    format: Annotated[  # noqa: A002  # its name in every tool
        Literal["auto", "csv", "parquet", "imagefolder", "coco", "fiftyone", "labelstudio", "chiasm", "onnx", "html"],
        typer.Option(metavar="NAME", help="auto: by the suffix; the others are folders with copies of the files."),
    ] = "auto",
    label: Annotated[
        str,
        typer.Option(metavar="COLUMN", help="Column of labels, for folders.", autocompletion=complete.columns),
    ] = "label",
    where: Where = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Of .chiasm, .onnx and .html: networks in 8-bit integers.")
    ] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Of the same: networks in float16, for GPUs.")] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="COST", help="Of a model: at most e.g. 30MB or 25ms an item, and as good on held-out items."
        ),
    ] = None,
    on: Annotated[
        Path | None,
        typer.Option(metavar="COLLECTION", help="Of the budget: labelled items that the model has not seen."),
    ] = None,
    smaller: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL", help="Of the budget: another model that may be taken, e.g. of a compressed encoder."
        ),
    ] = None,
    report: Report = None,
    dimension: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Of a collection as .chiasm: fewer numbers a vector; says what it costs."
        ),
    ] = None,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails", help="Of a collection as .chiasm: with small pictures.")
    ] = False,
    texts: Annotated[bool, typer.Option("--texts", help="Of a collection as .chiasm: with whole texts.")] = False,
) -> None:
    """Write items for another tool; or a model, or a collection to search, as one file that runs without chiasm."""
    written = chiasm.export(
        source, out=out, format=format, label=label, where=where, int8=int8, fp16=fp16, budget=budget, on=on,
        smaller=smaller, report=report, dimension=dimension, thumbnails=thumbnails, texts=texts,
    )  # fmt: skip
    console.show(written.as_dict(), lambda: results.print_export_report(written))


@app.verb(
    "chiasm compress offline --to small --on photos.index --speedup 1.5",
    "chiasm compress offline --to small --on photos.index --modality text",
    then="chiasm reembed photos.index --encoder small",
    doing="Compressing",
)
def compress(
    encoder: Annotated[str, typer.Argument(metavar="ENCODER", help="offline, a hub id or a folder.")],
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write the encoder to; a new one.")],
    on: Annotated[
        Path,
        typer.Option(metavar="COLLECTION", help="Items that it learns from and is judged by; no labels are needed."),
    ],
    speedup: Annotated[
        float, typer.Option(metavar="TIMES", min=1, max=100, help="How many times as fast, on one core of a CPU.")
    ] = 2.0,
    modality: Annotated[
        Literal["image", "text", "audio"] | None,
        typer.Option(metavar="NAME", help="Whose network. Default: image, else text, else audio, by what items have."),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Classes by which a probe is judged as well.", autocompletion=complete.columns
        ),
    ] = None,
    where: Where = None,
    cosine: Annotated[
        float,
        typer.Option(metavar="LEAST", min=0, max=1, help="Least mean cosine to the whole network, on held-out items."),
    ] = 0.9,
    keep: Annotated[bool, typer.Option("--keep", help="Write it even if it is further away or worse.")] = False,
    epochs: Annotated[int, typer.Option(metavar="N", min=1, help="Passes over the items.")] = 5,
    views: Annotated[int, typer.Option(metavar="N", min=0, help="Changed copies of every item to learn from.")] = 2,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of everything that is drawn.")] = 0,
    device: Device = "auto",
) -> None:
    """Write an encoder with a smaller, faster network that learned to embed your items as the whole one does."""
    report = chiasm.compress(
        encoder,
        to=to,
        on=on,
        speedup=speedup,
        modality=modality,
        label=label,
        where=where,
        cosine=cosine,
        keep=keep,
        epochs=epochs,
        views=views,
        seed=seed,
        device=device,
        on_message=console.note,
    )
    console.show(report.as_dict(), lambda: results.print_compress_report(report))


@app.verb(
    "chiasm reembed photos.index --encoder openai/clip-vit-base-patch32",
    "chiasm reembed photos.index --encoder ./encoder",
    then="chiasm align photos.index and chiasm fit, which start anew.",
    doing="Embedding again",
)
def reembed(
    collection: CollectionPath,
    encoder: Annotated[str, typer.Option(metavar="ENCODER", help="The new one: offline, a hub id or a model folder.")],
    licence: Licence = None,
    max_pixels: MaxPixels = None,
    device: Device = "auto",
) -> None:
    """Embed all files with another encoder. Searches go on with the old one until the new one takes over."""
    report = chiasm.reembed(
        collection,
        encoder=encoder,
        licence=licence,
        max_pixels=max_pixels,
        device=device,
    )
    console.show(report.as_dict(), lambda: results.print_reembed_report(report, collection))


@app.verb(
    "chiasm statistics photos.index --out photos.safetensors",
    "chiasm statistics photos.index --label species --out a.safetensors",
    then="chiasm align OTHER --source photos.safetensors; chiasm fit a.safetensors --source b.safetensors",
    doing="Summing up",
)
def statistics(
    collection: CollectionPath,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write (.safetensors).")],
    pairs: Pairs = "image,text",
    label: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Sums of its classes, for fit.", autocompletion=complete.columns),
    ] = None,
    modalities: Modalities = None,
    where: Where = None,
    device: Device = "auto",
) -> None:
    """Write what `align --source`, or with --label `fit`, need of this collection, without its data."""
    count = chiasm.statistics(
        collection,
        out=out,
        pairs=pair_of(pairs),
        label=label,
        modalities=modalities_of(modalities),
        where=where,
        device=device,
    )
    what, use = ("pairs", f"align OTHER --source {out}") if label is None else ("items", f"fit {out} --label {label}")
    console.show(
        {what: count, "path": str(out)},
        lambda: console.say(f"Statistics of {count} {what} are in {out}. Use them: chiasm {use}"),
    )


@app.verb(
    "chiasm federate keys a.safetensors --key a.key --out a.json",
    "chiasm federate sum *.masked *.reveal --out all.safetensors",
    then="chiasm fit all.safetensors --label COLUMN --out MODEL; docs/privacy.md has the whole round.",
    doing="Adding up",
)
def federate(
    step: Annotated[
        Literal["keys", "mask", "reveal", "sum"],
        typer.Argument(metavar="STEP", help="keys, mask and reveal: each party. sum: who coordinates."),
    ],
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Statistics (keys); these and the others' keys (mask); keys of all that count (reveal).",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write.")],
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Secret of the party, which keys makes; it never leaves it.")
    ] = None,
) -> None:
    """Add up the statistics of several parties, so that nobody sees those of one."""
    report = chiasm.federate(step, files, out=out, key=key)
    console.show(report.as_dict(), lambda: results.print_federate_report(report))


KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", metavar="FILE", help="Key, 64 hexadecimal digits. Default: the variable CHIASM_KEY."),
]


@app.verb(
    "chiasm encrypt photos.index --out photos.sealed --new-key key",
    "chiasm encrypt photos.sealed --out new.sealed --key-file key --new-key key2",
    then="CHIASM_KEY=$(cat key) chiasm search photos.sealed WORDS",
    doing="Encrypting",
)
def encrypt(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Collection, model or file; or one that is sealed.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write.")],
    key_file: KeyFile = None,
    new_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Key to seal with, made where there is none.")
    ] = None,
) -> None:
    """Write a collection, a model or a file as one encrypted file. The source stays."""
    written = chiasm.encrypt(source, out=out, key_file=key_file, new_key=new_key)
    words = f"{written} is sealed. Whoever loses the key loses what is in it; {source} is still there as it was"
    console.show({"path": str(written)}, lambda: console.say(words))


@app.verb(
    "chiasm decrypt photos.sealed --out photos.index --key-file key",
    "chiasm decrypt photos.sealed --out /dev/shm/photos --key-file key",
    then="chiasm serve /dev/shm/photos",
    doing="Decrypting",
)
def decrypt(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="What encrypt wrote.")],
    out: Annotated[Path, typer.Option(metavar="PATH", help="A name that is free.")],
    key_file: KeyFile = None,
) -> None:
    """Write what encrypt sealed as it was."""
    written = chiasm.decrypt(source, out=out, key_file=key_file)
    console.show({"path": str(written)}, lambda: console.say(f"{written} is there as it was sealed"))


@app.verb(
    "chiasm revert birds",
    "chiasm revert photos.index --space aligned",
    then="chiasm evaluate, to see what it is worth.",
)
def revert(
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A model; or a collection, for its space.")],
    space: Annotated[
        str | None,
        typer.Option(metavar="SPACE", help="Of a collection. Default: the newest.", autocompletion=complete.spaces),
    ] = None,
) -> None:
    """Bring back the model that learn or fit replaced, or the space that align did."""
    version = chiasm.revert(target, space=space)
    console.show({"version": version}, lambda: console.say(f"{target} is back at version {version}"))


@app.verb(
    "chiasm make-key keys.json --name office",
    "chiasm make-key keys.json --name phone --json",
    then="chiasm serve photos.index --host 0.0.0.0 --api-key-file keys.json",
)
def make_key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File that keeps the hashes of keys.")],
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the key, for the log.")] = "default",
) -> None:
    """Make an API key for serve; it is shown once."""
    key = chiasm.make_key(file, name=name)
    console.show({"key": key, "name": name}, lambda: console.say(key))
