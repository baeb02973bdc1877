"""Two unimodal models side by side on the Tux Paint stamps: what `align` makes of them, beside ridge and the offline default.

The weights are those of the offline encoders, so what differs is what the space starts with. Pictures are embedded by
EfficientNet-Lite0 as a model of timm without its classifier, hence without a bridge through words, texts by
all-MiniLM-L6-v2 as sentence-transformers loads it. `align` holds out a fifth of the captions, and each picture and caption
of that fifth searches the other kind in it. The peer is scikit-learn's RidgeCV on the same features and the same split.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn.linear_model import RidgeCV

import chiasm
from benchmarks import record
from benchmarks.corpora import say, stamps_table
from chiasm import encoders
from chiasm.encoders import offline
from chiasm.encoders.tensors import read_tensors
from chiasm.evaluation.intervals import paired_difference
from chiasm.finetuning.networks import load_efficientnet
from chiasm.splits import holdout_split
from chiasm.store.collection import Collection
from chiasm.vectors import unit_rows
from chiasm.verbs.align import HELD_OUT
from chiasm.verbs.dataset import pairs_of
from chiasm.verbs.fair import measure_pairs
from chiasm.verbs.spaces import start_of

SEEDS = range(5)
DIRECTIONS = ("text_to_image", "image_to_text")
PICTURES = "category <> 'symbols'"
STRENGTHS = tuple(np.logspace(-3, 3, 25))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = stamps_table(folder)
        save_pictures_model(folder / "efficientnet")
        pair = f"image={folder / 'efficientnet'},text={offline.text_folder()}"
        rows = []
        for words, encoder in (("two unimodal models", pair), ("offline", "offline")):
            chiasm.add([table], to=folder / words, encoder=encoder)
            rows += measure(words, folder / words)
    columns = ("encoders", "direction", "start", "`align`", "ridge", "`align` - ridge", "95 % interval", "worst seed")
    body = ["hit@10 among the held-out fifth of the captioned stamps without symbols, mean of the seeds.", ""]
    body.append(record.table(columns, rows))
    record.write("combination", "Two unimodal models", "0 to 4", "\n".join(body))


def save_pictures_model(folder: Path) -> None:
    """Save EfficientNet-Lite0 as a model of timm without a classifier."""
    sys.path.append(str(Path(__file__).parent.parent / "tests"))
    import torchvision_on_cpu

    torchvision_on_cpu.allow()  # and timm, which `make install` puts beside it
    import timm
    import torch

    published = load_efficientnet(read_tensors(offline.image_weights().read_bytes()))
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    tensors = [tensor for name, tensor in published.state_dict().items() if not name.startswith("_fc.")]
    model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
    pixels = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected, output = published(pixels), model.eval()((pixels.permute(0, 3, 1, 2).float() - 127) / 128)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["model_args"]  # transformers passes the number of classes itself
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def measure(words: str, collection: Path) -> list[list[object]]:
    opened = Collection.open(collection)
    start = start_of(opened, encoders.resolve(opened.encoder))
    data = pairs_of(opened, start, ("image", "text"), where=PICTURES)
    before, ours, peer = (np.zeros((len(SEEDS), len(DIRECTIONS))) for _ in range(3))
    for seed in SEEDS:
        report = chiasm.align(collection, where=PICTURES, seed=seed)
        split = holdout_split(HELD_OUT, groups=data.groups, seed=seed)
        ridge = RidgeCV(STRENGTHS).fit(data.features[split.train], data.anchors[split.train])
        placed = unit_rows(ridge.predict(data.features[split.test])).astype(np.float32)
        other = measure_pairs(data, placed, split.test).retrieval.as_dict()
        for number, direction in enumerate(DIRECTIONS):
            before[seed, number] = report.before[direction]["hit@10"]
            ours[seed, number] = report.after[direction]["hit@10"]
            peer[seed, number] = other[direction]["hit@10"]
        say(f"{words}, seed {seed}: {before[seed]}, {ours[seed]}, {peer[seed]}")
    rows: list[list[object]] = []
    for number, direction in enumerate(DIRECTIONS):
        gain = paired_difference(ours[:, number], peer[:, number])
        means = [float(values[:, number].mean()) for values in (before, ours, peer)]
        interval = f"{gain.interval.low:+.3f} to {gain.interval.high:+.3f}"
        worst = float((ours - peer)[:, number].min())
        rows.append([words, direction.replace("_", "-"), *means, f"{gain.mean:+.3f}", interval, f"{worst:+.3f}"])
    return rows


if __name__ == "__main__":
    main()
