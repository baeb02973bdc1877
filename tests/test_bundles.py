"""Models and collections as one file: the same answers without chiasm, and an error of ours for whatever else is in a file."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from fake_encoder import FakeEncoder
from npm import npm_files
from PIL import Image, ImageDraw
from tokenizers import Tokenizer

import chiasm
from chiasm import encoders, media, predict_script, types
from chiasm.errors import ChiasmError
from chiasm.predict_script import Bundle, BundleError
from chiasm.shipping.half import in_half
from chiasm.verbs.budget import Budget, choose
from chiasm.verbs.bundles import portable_encoders
from chiasm.verbs.export import Form
from chiasm.verbs.spaces import placed_vectors, space_of

SHAPES = {"circle": ImageDraw.ImageDraw.ellipse, "square": ImageDraw.ImageDraw.rectangle}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two shapes with captions."""
    root = tmp_path_factory.mktemp("media")
    drawn(root, ("red", "green", "blue", "orange", "purple", "black", "brown", "pink"))
    return root


def drawn(root: Path, colours: Sequence[str]) -> None:
    for shape, draw in SHAPES.items():
        (root / shape).mkdir(parents=True)
        for number, colour in enumerate(colours):
            picture = Image.new("RGB", (90 + number, 110), "white")
            draw(ImageDraw.Draw(picture), (16, 16, 80, 80), fill=colour)
            picture.save(root / shape / f"{colour}.png")
            (root / shape / f"{colour}.txt").write_text(f"a {colour} {shape} on white paper", encoding="utf-8")


@pytest.fixture(scope="module")
def collection(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made") / "shapes.index"
    chiasm.add([folder], to=made)
    return made


@pytest.fixture(scope="module")
def model(collection: Path) -> Path:
    out = collection.parent / "shapes"
    chiasm.fit(collection, label="label", out=out)
    return out


@pytest.fixture(scope="module")
def bundle(model: Path) -> Path:
    report = chiasm.export(model, out=model.parent / "shapes.chiasm")
    assert (report.format, report.items, report.notes) == ("chiasm", 16, ("python shapes.chiasm FILE...",))
    assert report.size == Path(report.path).stat().st_size
    return Path(report.path)


def script(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a bundle as somebody without chiasm does: Python, and nothing on its path but what is installed."""
    command = [sys.executable, "-P", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("which", ["*.png", "*.txt", "*"])
def test_the_same_answers_as_the_model(model: Path, bundle: Path, folder: Path, which: str) -> None:
    paths = sorted((folder / "circle").glob(which)) + sorted((folder / "square").glob(which))
    whole, small = (chiasm.predict(one, paths, level=0.8).predictions for one in (model, bundle))
    assert len(whole) == len(small) == 16
    for expected, one in zip(whole, small, strict=True):
        assert (one.id, one.path, one.modalities) == (expected.id, expected.path, expected.modalities)
        assert (one.label, one.unknown, one.set) == (expected.label, expected.unknown, expected.set)
        assert one.probabilities == pytest.approx(expected.probabilities, abs=2e-3)


def test_a_table_with_texts_and_media_in_memory(bundle: Path, folder: Path) -> None:
    pixels = np.asarray(Image.open(folder / "circle" / "red.png"))
    report = chiasm.predict(
        bundle, {"image": [pixels, pixels], "text": ["a red circle", None], "audio": [None, "no.wav"]}
    )
    assert [one.label for one in report.predictions] == ["circle", "circle"]
    assert [one.modalities for one in report.predictions] == [("image", "text"), ("image",)]
    assert [outcome.path for outcome in report.outcomes] == [report.outcomes[0].path]
    assert "not audio" in report.outcomes[0].reason


def test_it_runs_itself(bundle: Path, folder: Path, tmp_path: Path) -> None:
    done = script(bundle, folder / "circle", "--text", "a blue square")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["columns"]["label"]["value"] for one in answers] == ["circle"] * 8 + ["square"]
    assert answers[0]["modalities"] == ["image", "text"]
    with zipfile.ZipFile(bundle) as archive:
        archive.extract("predict.py", tmp_path)
        card = archive.read("README.md").decode()
    assert script(tmp_path / "predict.py", bundle, folder / "circle" / "red.png").stdout.count("\n") == 1
    assert "python shapes.chiasm" in card
    assert "Apache-2.0" in card


def test_pipes_in_a_folder_are_not_waited_for_and_any_name_is_printed(bundle: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    named = tmp_path / os.fsdecode(b"\xff\n.txt")
    named.write_text("a blue square", encoding="utf-8")
    done = script(bundle, tmp_path)
    (answer,) = map(json.loads, done.stdout.splitlines())
    assert answer["item"] == str(named.with_suffix(""))
    assert "or search with" in script(bundle, tmp_path, "--search", "a boat", code=2).stderr


def test_the_script_is_short_and_needs_little() -> None:
    source = Path(predict_script.__file__).read_text(encoding="utf-8")
    assert source.count("\n") < 300
    modules: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(str(node.module).partition(".")[0])
    assert modules - sys.stdlib_module_names == {"numpy", "onnxruntime", "PIL", "tokenizers"}


def test_bad_files_and_long_texts(bundle: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes((folder / "circle" / "red.png").read_bytes()[:100])
    (tmp_path / "empty.txt").write_bytes(b"  \n")
    (tmp_path / "long.txt").write_text("A blue square, drawn on paper. " * 200, encoding="utf-8")
    report = chiasm.predict(bundle, [tmp_path])
    assert {one.id: one.label for one in report.predictions} == {"cut": None, "empty": None, "long": "square"}
    done = script(bundle, tmp_path)
    assert done.stderr.count("\n") == 2
    assert "Traceback" not in done.stderr
    assert script(bundle, tmp_path / "missing.png", code=1).stdout.count("value") == 0


def test_pictures_are_seen_as_by_chiasm(tmp_path: Path) -> None:
    """Turned, transparent, grey, with a palette, of 16 bits, very long, and large."""
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 255, (6, 9, 4)), np.ones((80, 80, 1))).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[..., :3]).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(pixels[..., :3]).quantize(9).save(tmp_path / "palette.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(pixels[..., 0] > 128).save(tmp_path / "bits.png")
    Image.fromarray(pixels[:20, :, :3]).save(tmp_path / "long.webp", lossless=True)
    for path in tmp_path.iterdir():
        expected = media.load(path, image_size=predict_script.SIDE)
        assert isinstance(expected, types.Image)
        seen = predict_script.fit(predict_script.read_picture(path)).astype(int)
        assert np.abs(seen - predict_script.fit(Image.fromarray(expected.pixels))).max() <= 1, path.name


@pytest.mark.parametrize(
    ("source", "out", "options"),
    [
        ("collection", "all.csv", {"int8": True}),
        ("collection", "all.chiasm", {"label": "kind"}),
        ("collection", "all.chiasm", {"budget": "30MB", "on": "x"}),
        ("model", "all.chiasm", {"where": "x = 1"}),
        ("model", "all.chiasm", {"dimension": 64}),
        ("model", "all.onnx", {"thumbnails": True}),
        ("model", "all.html", {"texts": True}),
    ],
)
def test_options_that_mean_nothing_are_refused(
    request: pytest.FixtureRequest, tmp_path: Path, source: str, out: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ChiasmError, match=rf"{', '.join(options)}: not for .*leave it out"):
        chiasm.export(request.getfixturevalue(source), out=tmp_path / out, **options)


def test_a_bundle_runs_on_the_cpu(bundle: Path, folder: Path) -> None:
    with pytest.raises(ChiasmError, match="on the CPU"):
        chiasm.predict(bundle, [folder], device="cuda")


def test_a_collection_is_searched_in_one_file(collection: Path, folder: Path) -> None:
    report = chiasm.export(collection, out=collection.parent / "all.chiasm", where="label = 'circle'")
    assert (report.items, report.notes[0]) == (8, 'python all.chiasm --search "WORDS"')
    done = script(report.path, "--search", "a green square", "-k", 3)
    hits = [json.loads(line) for line in done.stdout.splitlines()]
    opened = chiasm.Collection.open(collection)
    networks = encoders.resolve("offline", device="cpu")
    space = space_of(opened, networks, None).space
    placed = placed_vectors(opened, space)
    wanted = space.embed([types.Text("a green square")], networks)[0]
    rows = [row for row, item in enumerate(placed.items) if item.startswith("circle/")]
    best = sorted(rows, key=lambda row: -float(placed.vectors[row] @ wanted))[:3]
    assert [hit["id"] for hit in hits] == [placed.items[row] for row in best]
    assert [hit["score"] for hit in hits] == pytest.approx(
        [float(placed.vectors[row] @ wanted) for row in best], abs=0.01
    )
    assert hits[0]["id"] == "circle/green"
    assert (
        json.loads(script(report.path, "--like", folder / "circle" / "red.png", "-k", 1).stdout)["id"] == "circle/red"
    )
    with pytest.raises(ChiasmError, match="to be searched"):
        chiasm.predict(report.path, [folder])
    with pytest.raises(BundleError, match="not to be searched"):
        Bundle(report.path).search("audio", "x")


def test_float16_gives_the_same_answers(model: Path, bundle: Path, folder: Path, tmp_path: Path) -> None:
    report = chiasm.export(model, out=tmp_path / "half.chiasm", fp16=True)
    assert (report.size or 0) < 0.6 * bundle.stat().st_size
    whole, half = (chiasm.predict(one, [folder]).predictions for one in (bundle, tmp_path / "half.chiasm"))
    for expected, one in zip(whole, half, strict=True):
        assert (one.label, one.unknown, one.set) == (expected.label, expected.unknown, expected.set)
        assert one.probabilities == pytest.approx(expected.probabilities, abs=5e-3)


def test_what_float16_cannot_hold_is_refused(bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        model = onnx.load_from_string(archive.read("encode/image.onnx"))
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    weights = next(one for one in model.graph.initializer if one.name == convolution.input[1])
    large = onnx.numpy_helper.to_array(weights) * np.float32(1e6)
    weights.CopyFrom(onnx.numpy_helper.from_array(large, weights.name))
    with pytest.raises(ChiasmError, match="without fp16"):
        in_half(model.SerializeToString())


def test_thumbnails_and_texts_go_along(collection: Path, folder: Path, tmp_path: Path) -> None:
    without = chiasm.export(collection, out=tmp_path / "plain.chiasm")
    report = chiasm.export(collection, out=tmp_path / "shown.chiasm", thumbnails=True, texts=True)
    shown = [json.loads(line) for line in script(report.path, "--search", "a green circle", "-k", 4, "--thumbnails",
                                                 tmp_path / "new" / "found").stdout.splitlines()]  # fmt: skip
    pictures = [hit for hit in shown if hit["modality"] == "image"]
    for hit in pictures:
        assert Path(hit["thumbnail"]).parent == tmp_path / "new" / "found"
        original = Image.open(hit["path"]).convert("RGB")
        small = Image.open(hit["thumbnail"]).resize(original.size)
        assert np.abs(np.asarray(original, int) - np.asarray(small, int)).mean() < 8
    for hit in shown:
        if hit["modality"] == "text":
            assert hit["text"] == Path(hit["path"]).read_text(encoding="utf-8")
    assert {hit["modality"] for hit in shown} <= {"image", "text"}
    plain = [json.loads(line) for line in script(without.path, "--search", "a green circle", "-k", 4, "--thumbnails", tmp_path / "none").stdout.splitlines()]  # fmt: skip
    assert [hit["id"] for hit in plain] == [hit["id"] for hit in shown]
    assert all("thumbnail" not in hit and "text" not in hit for hit in plain)
    assert not (tmp_path / "none").exists()


def test_a_file_that_is_gone_has_no_thumbnail(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "circle", tmp_path / "media")
    chiasm.add([tmp_path / "media"], to=tmp_path / "index")
    (tmp_path / "media" / "red.png").unlink()
    report = chiasm.export(tmp_path / "index", out=tmp_path / "shown.chiasm", thumbnails=True)
    assert report.notes[1].startswith("1 files cannot be read")
    with zipfile.ZipFile(report.path) as archive:
        assert sum(name.startswith("thumbnails/") for name in archive.namelist()) == 7


@pytest.mark.parametrize("int8", [False, True])
def test_shorter_vectors_find_the_same(collection: Path, tmp_path: Path, int8: bool) -> None:
    whole = chiasm.export(collection, out=tmp_path / "whole.chiasm", int8=int8)
    short = chiasm.export(  # there are 32 vectors
        collection, out=tmp_path / "short.chiasm", dimension=31, int8=int8, report=tmp_path / "vectors.md"
    )
    written = (tmp_path / "vectors.md").read_text(encoding="utf-8")
    assert all(words in written for words in ("| 32 | 36 | 1.000 |", "| 512 | 516 | 1.000 |", "hit@10"))
    assert short.notes[1].startswith("31 of 512 dimensions: ")
    assert "hit@10" in short.notes[1]
    hits = [Bundle(report.path).search("text", "a red circle", 20) for report in (whole, short)]
    scores = [{hit["id"]: hit["score"] for hit in own} for own in hits]
    assert scores[1] == pytest.approx(scores[0], abs=0.02)
    with zipfile.ZipFile(short.path) as archive:
        assert archive.getinfo("vectors.int8").file_size == 32 * 31
    with pytest.raises(ChiasmError, match="1 to as many"):
        chiasm.export(collection, out=tmp_path / "short.chiasm", dimension=513)


def test_what_a_model_of_pictures_has_learned_from_is_not_held_out(collection: Path, tmp_path: Path) -> None:
    chiasm.fit(collection, label="label", out=tmp_path / "pictures", modalities=["image"])
    with pytest.raises(ChiasmError, match="has 0 labelled items"):
        chiasm.export(tmp_path / "pictures", out=tmp_path / "no.chiasm", budget="60MB", on=collection)


def test_a_budget_chooses_by_held_out_items(model: Path, collection: Path, folder: Path, tmp_path: Path) -> None:
    drawn(tmp_path / "others", ("gray", "navy", "teal", "gold", "lime", "cyan", "magenta", "maroon", "olive", "silver"))
    others = tmp_path / "others.index"
    chiasm.add([tmp_path / "others"], to=others)
    chiasm.fit(collection, label="label", out=tmp_path / "words", modalities=["text"])
    report = chiasm.export(model, out=tmp_path / "small.chiasm", budget="60 MB", on=others, smaller=tmp_path / "words")
    forms = {form.name: form for form in report.forms}
    assert [*forms] == ["fp32", "fp16", "int8", "words fp32", "words fp16", "words int8"]
    assert forms["fp32"].megabytes > 1.7 * forms["fp16"].megabytes > 1.7 * forms["int8"].megabytes
    assert forms["int8"].megabytes > forms["words int8"].megabytes
    chosen = min((form for form in report.forms if form.loss <= 0), key=lambda form: form.megabytes)
    with zipfile.ZipFile(report.path) as archive:
        assert f"This is {chosen.name}." in archive.read("README.md").decode()
        assert json.loads(archive.read("about.json"))["precision"] == chosen.name.rpartition(" ")[2]
    assert report.size == pytest.approx(chosen.megabytes * 1e6, rel=0.05)
    with pytest.raises(ChiasmError, match="no form of the model"):
        chiasm.export(model, out=tmp_path / "no.chiasm", budget="1MB", on=others, report=tmp_path / "forms.json")
    blocks = json.loads((tmp_path / "forms.json").read_text(encoding="utf-8"))
    assert all(name in json.dumps(blocks) for name in ("macro-F1 by MB", "macro-F1 by ms an item", "fp16"))
    with pytest.raises(ChiasmError, match="written as"):
        chiasm.export(model, out=tmp_path / "no.chiasm", budget="1MB", on=others, report=tmp_path / "forms.txt")
    with pytest.raises(ChiasmError, match="name a collection of others"):
        chiasm.export(model, out=tmp_path / "no.chiasm", budget="60MB", on=collection)
    assert not (tmp_path / "no.chiasm").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": "30MB"}, "with on"),
        ({"budget": "30MB", "on": "c", "int8": True}, "with on"),
        ({"on": "c"}, "with on"),
        ({"smaller": "c"}, "with on"),
        ({"report": "c.html"}, "with on"),
        ({"int8": True, "fp16": True}, "leave one out"),
    ],
)
def test_a_budget_that_cannot_be_kept_to(model: Path, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ChiasmError, match=words):
        chiasm.export(model, out=tmp_path / "no.chiasm", **options)


def test_the_cheapest_that_is_as_good() -> None:
    full, worse, small = Form("fp32", 100, 40, 0.8, 0.0), Form("tiny", 1, 1, 0.7, 0.1), Form("int8", 30, 50, 0.79, 0.01)
    assert choose([full, worse, small], 0.02, Budget(50, "MB")) is small
    assert choose([full, worse, small], 0.02, Budget(50, "ms")) is full
    with pytest.raises(ChiasmError, match="20 MB"):
        choose([full, worse, small], 0.02, Budget(20, "MB"))
    for written in ("", "30", "MB", "0ms", "-1MB", "30 GB"):
        with pytest.raises(ChiasmError, match="a budget is"):
            Budget.of(written)


IN_NODE = """
import { readFileSync } from "node:fs";
import * as ort from "./ort.wasm.bundle.min.mjs";
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmBinary = readFileSync("./ort-wasm-simd-threaded.wasm");
const [model, height, width] = process.argv.slice(2);
const session = await ort.InferenceSession.create(readFileSync(model));
const pixels = new ort.Tensor("uint8", new Uint8Array(readFileSync(0)), [Number(height), Number(width), 3]);
const { probabilities } = await session.run({ pixels });
console.log(JSON.stringify(Array.from(probabilities.data)));
"""
ORT_WEB = ("onnxruntime-web", "1.30.0", ["dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"])


@pytest.fixture(scope="module")
def graph(model: Path) -> Path:
    report = chiasm.export(model, out=model.parent / "shapes.onnx")
    assert (report.format, report.notes) == ("onnx", ("from image alone",))
    return Path(report.path)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, Image.Image], list[float]]:
    """Run a graph in Node, by the build of ONNX Runtime for browsers."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("Node is not on this machine. On Debian: apt-get install nodejs")
    folder = tmp_path_factory.mktemp("node")
    shutil.copytree(npm_files(*ORT_WEB), folder, dirs_exist_ok=True)
    (folder / "run.mjs").write_text(IN_NODE, encoding="utf-8")

    def run(graph: Path, picture: Image.Image) -> list[float]:
        command = [program, "run.mjs", str(graph), str(picture.height), str(picture.width)]
        done = subprocess.run(command, cwd=folder, input=picture.tobytes(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        said: list[float] = json.loads(done.stdout)
        return said

    return run


def test_one_graph_from_pixels(graph: Path, bundle: Path, folder: Path) -> None:
    session = onnxruntime.InferenceSession(graph)
    names = json.loads(session.get_modelmeta().custom_metadata_map["names"])
    paths = sorted(folder.rglob("*.png"))
    answers = Bundle(bundle).recognise([{"image": [path]} for path in paths], 0.9, 0.05)[0]
    for path, answer in zip(paths, answers, strict=True):
        (probabilities,) = session.run(["probabilities"], {"pixels": np.asarray(Image.open(path))})
        expected = [answer["columns"]["label"]["probabilities"][name] for name in names]
        assert probabilities[0].tolist() == pytest.approx(expected, abs=0.05)  # another filter scales the picture


def test_one_graph_in_node(graph: Path, folder: Path, node: Callable[[Path, Image.Image], list[float]]) -> None:
    session = onnxruntime.InferenceSession(graph)
    for shape in SHAPES:
        picture = Image.open(folder / shape / "red.png")
        (expected,) = session.run(["probabilities"], {"pixels": np.asarray(picture)})
        assert node(graph, picture) == pytest.approx(expected[0].tolist(), abs=0.05)


def test_a_graph_of_texts_takes_tokens(bundle: Path, collection: Path, tmp_path: Path) -> None:
    chiasm.fit(collection, label="label", out=tmp_path / "words", modalities=["text"])
    report = chiasm.export(tmp_path / "words", out=tmp_path / "words.onnx")
    session = onnxruntime.InferenceSession(report.path)
    with zipfile.ZipFile(bundle) as archive:
        tokens = Tokenizer.from_str(archive.read("tokenizer.json").decode()).encode("a yellow circle")
    feeds = {"input_ids": [tokens.ids], "attention_mask": [tokens.attention_mask]}
    (probabilities,) = session.run(["probabilities"], {name: np.array(rows, np.int64) for name, rows in feeds.items()})
    names = json.loads(session.get_modelmeta().custom_metadata_map["names"])
    assert names[int(probabilities[0].argmax())] == "circle"


def test_what_cannot_leave_says_why() -> None:
    encoder = FakeEncoder()
    with pytest.raises(ChiasmError, match="libraries that an exported file does without"):
        portable_encoders({"image": encoder, "audio": encoder}, ("image", "audio"), "fp32")


# -------------------------------------------------------------------------------------------------------------- damage


def rewritten(
    source: Path, target: Path, change: Callable[[dict[str, Any]], Any] | None = None, **parts: bytes | None
) -> Path:
    """Copy a bundle with other parts, those of None left out, and another description."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if parts.get(name, b"") is not None:
                content = parts.get(name) or old.read(name)
                if name == "about.json" and change is not None:
                    about = json.loads(content)
                    change(about)
                    content = json.dumps(about).encode()
                new.writestr(name, content)
    return target


@pytest.fixture(scope="module")
def light(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with no network for texts, the largest part."""
    target = tmp_path_factory.mktemp("light") / "light.chiasm"
    return rewritten(bundle, target, None, **{"encode/text.onnx": None, "answer/text.onnx": None})


def added(source: Path, target: Path, info: zipfile.ZipInfo, content: bytes) -> Path:
    target.write_bytes(source.read_bytes())
    with zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return target


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("model.onnx")
    info.external_attr = 0o120777 << 16
    return info


def flipped(source: Path, target: Path) -> Path:
    content = bytearray(source.read_bytes())
    for place in range(len(content) // 4, len(content), len(content) // 50):
        content[place] ^= 0xFF
    target.write_bytes(content)
    return target


def cut(source: Path, target: Path) -> Path:
    target.write_bytes(source.read_bytes()[:-2000])
    return target


def foreign(_: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("about.json", "[1, 2]")
    return target


def plain(_: Path, target: Path) -> Path:
    target.write_bytes(b"this is no zip")
    return target


HARMED: dict[str, Callable[[Path, Path], Path]] = {
    "cut": cut,
    "flipped": flipped,
    "foreign": foreign,
    "no zip": plain,
    "missing": lambda _, target: target.with_name("missing.chiasm"),
    "a path": lambda source, target: added(source, target, zipfile.ZipInfo("../../evil"), b"x"),
    "an absolute path": lambda source, target: added(source, target, zipfile.ZipInfo("/etc/evil"), b"x"),
    "a link": lambda source, target: added(source, target, link(), b"/etc/passwd"),
    "a bomb": lambda source, target: added(source, target, zipfile.ZipInfo("bomb"), bytes(50_000_000)),
    "another version": lambda source, target: rewritten(source, target, lambda about: about.update(version=99)),
    "no modalities": lambda source, target: rewritten(source, target, lambda about: about.update(modalities=[1])),
    "no columns": lambda source, target: rewritten(source, target, lambda about: about.update(columns=[{"kind": 1}])),
    "wrong limits": lambda source, target: rewritten(
        source, target, lambda about: about["columns"][0].update(limits=7)
    ),
    "few names": lambda source, target: rewritten(
        source, target, lambda about: about["columns"][0].update(names=["a"])
    ),
    "a graph that is none": lambda source, target: rewritten(
        source, target, None, **{"answer/image.onnx": b"no graph"}
    ),
    "a graph of another place": lambda source, target: rewritten(
        source, target, None, **{"answer/image.onnx": zipfile.ZipFile(source).read("place/image.onnx")}
    ),
    "a part is missing": lambda source, target: rewritten(source, target, None, **{"encode/image.onnx": None}),
}


@pytest.mark.parametrize("harm", HARMED)
def test_whatever_else_is_in_a_file_is_an_error_of_ours(light: Path, folder: Path, tmp_path: Path, harm: str) -> None:
    file = HARMED[harm](light, tmp_path / "harmed.chiasm")
    picture = folder / "circle" / "red.png"
    with pytest.raises(BundleError, match=r"harmed|missing"):
        Bundle(file).recognise([{"image": [picture]}], 0.9, 0.05)
    if file.exists():
        with pytest.raises(ChiasmError, match=r"damaged|export it again"):
            chiasm.predict(file, [picture])


def elsewhere(graph: bytes, place: str) -> bytes:
    """Return a graph whose first tensor lies in a file of its own."""
    model = onnx.load_from_string(graph)
    tensor = model.graph.initializer[0]
    size = len(onnx.numpy_helper.to_array(tensor).tobytes())
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    tensor.external_data.add(key="length", value=str(size))
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize("place", ["weights", "../weights", "{}/weights"])
def test_a_graph_does_not_read_files(
    light: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    for home in (tmp_path, tmp_path / "here"):
        home.mkdir(exist_ok=True)
        (home / "weights").write_bytes(bytes(10_000_000))
    monkeypatch.chdir(tmp_path / "here")
    with zipfile.ZipFile(light) as archive:
        graph = elsewhere(archive.read("encode/image.onnx"), place.format(tmp_path))
    harmed = rewritten(light, tmp_path / "here" / "harmed.chiasm", None, **{"encode/image.onnx": graph})
    with pytest.raises(ChiasmError, match="another file"):
        chiasm.predict(harmed, [folder / "circle" / "red.png"])
    command = [sys.executable, "-P", predict_script.__file__, str(harmed), str(folder / "circle" / "red.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "another file" in done.stderr


def test_files_of_a_modality_that_it_does_not_take_are_named(collection: Path, folder: Path, tmp_path: Path) -> None:
    for modality in ("image", "text"):
        chiasm.fit(collection, label="label", out=tmp_path / modality, modalities=[modality])
        chiasm.export(tmp_path / modality, out=tmp_path / f"{modality}.chiasm")
    done = script(tmp_path / "image.chiasm", "--text", "a red circle", code=1)
    assert done.stderr == "a red circle: image.chiasm takes image, not text\n"
    done = script(tmp_path / "text.chiasm", folder / "circle" / "red.png", "--text", "a red circle")
    assert done.stderr == f"{folder / 'circle' / 'red.png'}: text.chiasm takes text, not image\n"
    assert done.stdout.count("\n") == 2


def test_a_tokenizer_that_is_none_is_an_error_of_ours(light: Path, tmp_path: Path) -> None:
    harmed = rewritten(light, tmp_path / "harmed.chiasm", None, **{"tokenizer.json": b"{}"})
    with pytest.raises(ChiasmError, match=r"damaged.*tokenizer"):
        chiasm.predict(harmed, {"text": ["a red circle"]})


def test_an_error_is_one_line(light: Path, folder: Path, tmp_path: Path) -> None:
    done = script(predict_script.__file__, cut(light, tmp_path / "cut.chiasm"), folder, code=1)
    assert done.stderr.count("\n") == 1
