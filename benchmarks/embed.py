"""Images and texts a second: from files to stored embeddings, beside the bare engines with the same weights.

The bare engines get inputs that are decoded and prepared already. The peers are run in turns with chiasm and the best
of the rounds counts for everybody, since the machine may be shared.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

import chiasm
from benchmarks import record
from benchmarks.corpora import say, stamps_table
from chiasm import encoders, media
from chiasm.cores import usable_cores
from chiasm.demo import stamps_root
from chiasm.encoders import offline
from chiasm.encoders.cache import cache_folder
from chiasm.encoders.huggingface import HuggingFaceEncoder
from chiasm.store.manifest import read_manifest
from chiasm.types import Audio, Image, Media, Text, Video

ROUNDS = 3
TEXTS = 4000
TOGETHER = 32  # inputs a call


def main() -> None:
    families()  # first: transformers looks for torchvision once
    rows = [*images(), *texts(), *again()]
    body = record.table(("what", "engine", "a second", "chiasm / this"), rows)
    record.write("embed", "Embedding", "texts: 0", body)


def images() -> list[list[object]]:
    encoder = next(e for e in encoders.resolve("offline") if "image" in e.modalities)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [Path(item.sources[0].path or "") for item in read_manifest(stamps_table(folder)).items]
        only = folder / "images.csv"
        only.write_text("image\n" + "\n".join(f'"{path}"' for path in paths) + "\n", encoding="utf-8")
        prepared = [encoder.prepare(media.load(path, image_size=encoder.view.image_size)) for path in paths]
        pixels = np.concatenate(prepared)
        rates: dict[str, float] = {}
        for number in range(ROUNDS):
            target = folder / f"collection{number}"
            measure(rates, "chiasm add (files to stored vectors)", len(paths), partial(chiasm.add, [only], to=target))
            measure(
                rates,
                "chiasm encode (prepared pixels)",
                len(paths),
                partial(encoder.encode_prepared, "image", prepared),
            )
            for batch in (1, 8, 32):
                label = f"bare ONNX Runtime session, batch {batch}"
                measure(rates, label, len(paths), partial(run_bare, bare_session(), pixels, batch))
            measure(rates, "eager PyTorch, batch 32", 256, eager_images(pixels[:256]))
    return compared("image", rates)


def bare_session() -> onnxruntime.InferenceSession:
    """The exported network as it lies in the cache, in a session of the engine's own on all cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    network = next(cache_folder().glob("networks/efficientnet-lite0-*/network.onnx"))
    return onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])


def run_bare(session: onnxruntime.InferenceSession, pixels: np.ndarray, batch: int) -> None:
    for start in range(0, len(pixels), batch):
        session.run(None, {"pixels": pixels[start : start + batch]})


def eager_images(pixels: np.ndarray) -> Callable[[], object]:
    import torch

    from chiasm.encoders.tensors import read_tensors
    from chiasm.finetuning.networks import load_efficientnet

    network = load_efficientnet(read_tensors(offline.image_weights().read_bytes()))

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, len(pixels), 32):
                network(torch.from_numpy(pixels[start : start + 32]))

    return run


def texts() -> list[list[object]]:
    from sentence_transformers import SentenceTransformer

    encoder = next(e for e in encoders.resolve("offline") if "text" in e.modalities)
    lines = [
        line.split("=", 1)[-1].strip()
        for path in sorted(stamps_root(say).rglob("*.txt"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]
    chosen = [str(line) for line in np.random.default_rng(0).choice(lines, TEXTS, replace=False)]
    peer = SentenceTransformer(str(offline.text_folder()), device="cpu")
    rates: dict[str, float] = {}
    media_ = [Text(line) for line in chosen]
    for _ in range(ROUNDS):
        measure(rates, "chiasm encode", TEXTS, partial(encoder.encode, media_))
        measure(rates, "sentence-transformers on PyTorch", TEXTS, partial(peer.encode, chosen, show_progress_bar=False))
    return compared("text", rates)


def again() -> list[list[object]]:
    """`add` on a collection of 8,000 files that have not changed, in a new process each time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "texts"
        folder.mkdir()
        for number in range(8000):
            (folder / f"{number:05}.txt").write_text(f"note number {number}", encoding="utf-8")
        target = Path(name) / "collection"
        chiasm.add([folder], to=target)
        times = []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            command = [sys.executable, "-m", "chiasm.cli", "add", str(folder), "--to", str(target)]
            subprocess.run(command, check=True, capture_output=True)
            times.append(time.perf_counter() - begin)
    return [["add again, 8,000 unchanged files", "command line, new process", f"{min(times):.2f} s", ""]]


def families() -> None:
    """Inputs a second of one core by tiny random models of every family: what surrounds a network, not the network."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import torchvision_on_cpu

    torchvision_on_cpu.allow()
    from tiny_models import MAKERS

    generator = np.random.default_rng(0)
    inputs: dict[str, Media] = {
        "text": Text("the big red dog on the mat"),
        "image": Image(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)),
        "audio": Audio(generator.normal(0, 0.1, 8000).astype(np.float32), 16_000),
        "video": Video(generator.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8), np.arange(4, dtype=np.float32), 4.0),
    }
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as root, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the libraries say of models that are this small
        for kind, save in MAKERS.items():
            save(Path(root) / kind)
            encoder = HuggingFaceEncoder(str(Path(root) / kind), device="cpu")
            row: list[object] = [kind]
            for modality, medium in inputs.items():
                row.append("")
                if modality in encoder.modalities:
                    encoder.encode([medium])
                    begin = time.process_time()
                    encoder.encode([medium] * TOGETHER)
                    row[-1] = f"{TOGETHER / (time.process_time() - begin):.0f}"
            say(str(row))
            rows.append(row)
    body = (
        "Tiny random models, as of the tests: their networks take next to no time, so this is what surrounds a network "
        f"(preparing inputs, tokens, batches). {TOGETHER} equal inputs a call, processor's time.\n\n"
    )
    body += record.table(("family", *inputs), rows)
    record.write("families", "What surrounds a network", "inputs: 0", body, command="python -m benchmarks.embed")


def measure(rates: dict[str, float], name: str, count: int, run: Callable[[], object]) -> None:
    """Run once; keep the best rate so far."""
    begin = time.perf_counter()
    run()
    rate = count / (time.perf_counter() - begin)
    say(f"{name}: {rate:.0f}/s")
    rates[name] = max(rate, rates.get(name, 0.0))


def compared(what: str, rates: dict[str, float]) -> list[list[object]]:
    ours = next(iter(rates.values()))
    return [[what, name, f"{rate:.0f}", f"{ours / rate:.2f}"] for name, rate in rates.items()]


if __name__ == "__main__":
    main()
