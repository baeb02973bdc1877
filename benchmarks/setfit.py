"""SetFit on the captions of the stamps: fine-tuning the same text encoder, beside adapters on its frozen embeddings.

SetFit (Tunstall et al. 2022, arXiv:2209.11055) with its own defaults (one epoch of contrastive pairs, then its logistic
head). Not among the development requirements, since nothing else needs it: `pip install setfit` first. It trains for a
minute or more a seed, so there are three.
"""

from __future__ import annotations

import tempfile
import time

import numpy as np

from benchmarks import record
from benchmarks.corpora import classes, embedded_names, modality_arrays, offline_space, pairs, say
from benchmarks.few_shot import macro_f1
from chiasm.encoders.offline import text_folder
from chiasm.evaluation.intervals import paired_difference
from chiasm.recognition import Recognizer
from chiasm.splits import few_shot_split

SEEDS = range(3)


def main() -> None:
    data, space = classes(pairs("stamps")), offline_space()
    arrays, names = modality_arrays(data, space).only(("text",)), embedded_names(data, space)
    rows: list[list[object]] = []
    for shots in (2, 5):
        scores: dict[str, list[float]] = {"setfit": [], "linear": [], "without names": []}
        seconds: dict[str, list[float]] = {name: [] for name in scores}
        for seed in SEEDS:
            split = few_shot_split(data.categories, shots, seed=seed)
            truth = data.categories[split.test]
            begin = time.perf_counter()
            scores["setfit"].append(macro_f1(truth, setfit(data, split.train, split.test, seed)))
            seconds["setfit"].append(time.perf_counter() - begin)
            for name, given in (("linear", names), ("without names", None)):
                begin = time.perf_counter()
                model = Recognizer(adapter="linear", unknown=None, random_state=seed).fit(
                    arrays.take(split.train), data.categories[split.train], names=given
                )
                found = model.predict(arrays.take(split.test))
                seconds[name].append(time.perf_counter() - begin)
                scores[name].append(macro_f1(truth, found))
            say(
                f"{shots} shots, seed {seed}: " + ", ".join(f"{key} {values[-1]:.3f}" for key, values in scores.items())
            )
        difference = paired_difference(np.array(scores["linear"]), np.array(scores["setfit"]))
        rows.append(
            [shots, *(float(np.mean(scores[name])) for name in scores), difference.mean, difference.standard_error,
             float(np.mean(seconds["linear"])), float(np.mean(seconds["setfit"]))]
        )  # fmt: skip
    columns = (
        "shots", "SetFit", "linear probe, names", "linear probe, no names", "probe with names - SetFit", "standard error",
        "s, probe", "s, SetFit",
    )  # fmt: skip
    record.write("setfit", "SetFit on captions", "0 to 2", record.table(columns, rows))


def setfit(data: object, train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    captions, categories = data.captions, data.categories  # type: ignore[attr-defined]
    model = SetFitModel.from_pretrained(str(text_folder()), labels=sorted(set(categories.tolist())))
    given = Dataset.from_dict({"text": captions[train].tolist(), "label": categories[train].tolist()})
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model, args=TrainingArguments(output_dir=folder, seed=seed, report_to="none"), train_dataset=given
        )
        trainer.train()
    return np.asarray(model.predict(captions[test].tolist()))


if __name__ == "__main__":
    main()
