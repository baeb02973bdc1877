"""Texts to embeddings: tokens and batches of a BERT sentence encoder such as all-MiniLM-L6-v2.

Only `tokenizers` and ONNX Runtime are needed once the network is exported, so a text can be embedded half a second
after the start of a process. Where the model is found is left to `offline`, the layers to `networks`, how they are run
to `runtime`. Other text models go through `huggingface`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from chiasm.encoders.base import Embeddings, Encoder, Prepared, View
from chiasm.encoders.cache import file_digest, fingerprint
from chiasm.encoders.runtime import Arrays, Blueprint, Device, Engine, Network
from chiasm.errors import EncoderError
from chiasm.types import Media, Modality, Text

if TYPE_CHECKING:
    import torch

MAX_TOKENS = 256  # what all-MiniLM-L6-v2 was trained with, and its folder says; longer texts are cut

_VERSION = "1"  # of everything here and in `networks` that changes embeddings
_FILES = ("config.json", "tokenizer.json", "model.safetensors")
_SMALL, _LARGE = 256, 16_384  # tokens a run, with padding: on one core, and on a GPU


class TextEncoder(Encoder):
    """Mean-pooled BERT, vectors of length 1; the same as sentence-transformers gives for the same folder."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "all-MiniLM-L6-v2",
        device: Device = "auto",
        engine: Engine = "auto",
        threads: int | None = None,
    ) -> None:
        """Name the model's folder; weights are read later.

        Args:
            folder: holds `config.json`, `tokenizer.json` and `model.safetensors` of a BERT model whose sentence
                embedding is the normalised mean over the tokens.
            name: of the model, for messages.
            device: see `Network`.
            engine: see `Network`.
            threads: see `Network`.

        Raises:
            EncoderError: a file is missing or cannot be read, or a choice that `Network` does not have.
        """
        self._folder = folder
        self._fingerprint = fingerprint(name, _VERSION, *(file_digest(folder / file) for file in _FILES))
        self._config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if self._config.get("model_type") != "bert" or self._config.get("hidden_act") != "gelu":
            raise EncoderError(
                f"{folder} holds a model of type {self._config.get('model_type')!r}, and this encoder runs 'bert' with "
                "'gelu'. Use HuggingFaceEncoder for it"
            )
        self.name = name
        self.modalities: frozenset[Modality] = frozenset({"text"})
        self.dim = int(self._config["hidden_size"])
        self.view = View()
        self.batch_size = 256  # enough to find texts of the same length in it
        self._tokenizer: Tokenizer | None = None
        self._loading = Lock()
        axes = {"input_ids": ("batch", "tokens"), "attention_mask": ("batch", "tokens")}
        self._network = Network(
            Blueprint(name, self._fingerprint, self._build, axes, self._sample),
            device=device,
            engine=engine,
            threads=threads,
        )

    @property
    def fingerprint(self) -> str:
        """Hex digest over weights, configuration, tokenizer and this module's version."""
        return self._fingerprint

    def prepare(self, media: Media) -> Prepared:
        """Return the text itself: a whole batch is cut into tokens at once."""
        self._require(media.modality)
        assert isinstance(media, Text)
        return media.text

    def encode_prepared(self, modality: Modality, batch: Sequence[Prepared]) -> Embeddings:
        """Embed texts, a row each."""
        self._require(modality)
        vectors = np.empty((len(batch), self.dim), np.float32)
        if not batch:
            return Embeddings(vectors, ())
        tokens = [encoding.ids for encoding in self._loaded_tokenizer().encode_batch_fast(list(batch))]
        # Texts of like length go together, so that little is padding; the longest go first, so that the cores end
        # together.
        rows = groups_of_like_length([len(ids) for ids in tokens], self._network.budget(small=_SMALL, large=_LARGE))
        outputs = self._network.run([_padded([tokens[row] for row in group]) for group in rows])
        for group, output in zip(rows, outputs, strict=True):
            vectors[group] = output
        return Embeddings(vectors, (None,) * len(batch))

    def _loaded_tokenizer(self) -> Tokenizer:
        with self._loading:
            if self._tokenizer is None:
                tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
                tokenizer.no_padding()
                tokenizer.enable_truncation(MAX_TOKENS)
                self._tokenizer = tokenizer
            return self._tokenizer

    def _build(self) -> torch.nn.Module:
        from chiasm.encoders.networks import BertShape, load_sentence_bert

        shape = BertShape(**{field.name: self._config[field.name] for field in fields(BertShape)})
        return load_sentence_bert(shape, self._folder / "model.safetensors")

    def _sample(self, rows: int, generator: np.random.Generator) -> Arrays:
        lengths = generator.integers(2, 40, rows)
        return _padded([generator.integers(0, self._config["vocab_size"], length).tolist() for length in lengths])


def groups_of_like_length(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group rows of like length, longest first, at most `budget` tokens with padding (or one row) a group."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        # The first row of a group is its longest, and the others are padded to it.
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _padded(tokens: Sequence[Sequence[int]]) -> Arrays:
    longest = max(len(ids) for ids in tokens)
    input_ids = np.zeros((len(tokens), longest), np.int64)
    mask = np.zeros((len(tokens), longest), np.int64)
    for row, ids in enumerate(tokens):
        input_ids[row, : len(ids)] = ids
        mask[row, : len(ids)] = 1
    return {"input_ids": input_ids, "attention_mask": mask}
