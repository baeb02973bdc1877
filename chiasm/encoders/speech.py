"""Speech to embeddings: Whisper writes down what is said, the text encoder embeds the words.

So speech stands in the text encoder's space, and its transcript is kept beside the vector. Sounds without words have no
place there: their vector is zero. Where the model is found is left to `offline`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Float

from chiasm._optional import require
from chiasm.encoders.base import Embeddings, Encoder, Prepared, View
from chiasm.encoders.cache import file_digest, fingerprint, made_once
from chiasm.encoders.runtime import Device, usable_cores
from chiasm.encoders.text import TextEncoder
from chiasm.errors import EncoderError
from chiasm.types import Audio, Media, Modality, Text

RATE = 16_000
WINDOW = 30 * RATE  # samples that Whisper sees at once

_VERSION = "1"  # of everything here that changes transcripts
_FILES = ("model.bin", "config.json", "tokenizer.json")
_BEAM = 5
# A decoder that is unsure of its words in a sound that hardly holds speech is making them up (Radford et al. 2022, 4.5).
_NO_SPEECH, _UNSURE = 0.6, -1.0


class SpeechEncoder(Encoder):
    """Whisper through faster-whisper (CTranslate2; int8 on a CPU, float16 on a GPU), then a text encoder.

    Decoding is by beam search without sampling, so the same sound always gives the same words.
    """

    def __init__(
        self, folder: Path, text: TextEncoder, *, language: str | None = None, device: Device = "auto"
    ) -> None:
        """Name the model; it is loaded later.

        Args:
            folder: of a Whisper model in CTranslate2's format.
            text: embeds the transcripts.
            language: code such as `"en"`; None finds it for every sound.
            device: `"auto"`, `"cpu"` or `"cuda"`.

        Raises:
            EncoderError: the folder lacks a file of the model.
        """
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing:
            raise EncoderError(
                f"{folder} is not a Whisper model in CTranslate2's format: it lacks {', '.join(missing)}"
            )
        self.name = "whisper"
        self.modalities: frozenset[Modality] = frozenset({"audio"})
        self.dim = text.dim
        self.view = View(rate=RATE)
        self.batch_size = 8
        self._folder, self._text, self._language, self._device = folder, text, language, device
        digests = [file_digest(folder / name) for name in _FILES]
        self._fingerprint = fingerprint(self.name, _VERSION, *digests, str(language), text.fingerprint)
        self._model: Any = None
        self._loading = Lock()

    @property
    def fingerprint(self) -> str:
        """Hex digest over the model, the language, the text encoder and this module's version."""
        return self._fingerprint

    @property
    def vector_space(self) -> str:
        """The text encoder's: what is said and what is written can be compared."""
        return self._text.vector_space

    def prepare(self, media: Media) -> Prepared:
        """The waveform at 16 kHz."""
        self._require(media.modality)
        assert isinstance(media, Audio)
        if media.rate != RATE:
            import soxr

            return soxr.resample(media.waveform, media.rate, RATE).astype(np.float32)
        return media.waveform

    def encode_prepared(self, modality: Modality, batch: Sequence[Prepared]) -> Embeddings:
        """Write down and embed sounds, a row each; a row of zeros where no words were recognised."""
        self._require(modality)
        words = [self._transcribe(waveform) for waveform in batch]
        vectors = np.zeros((len(batch), self.dim), np.float32)
        spoken = [row for row, text in enumerate(words) if text]
        if spoken:
            vectors[spoken] = self._text.encode([Text(words[row]) for row in spoken]).vectors
        return Embeddings(vectors, tuple(words))

    def _transcribe(self, waveform: Float[np.ndarray, " samples"]) -> str:
        """What is said. Windows of 30 seconds, each written down by itself."""
        import ctranslate2
        from faster_whisper.tokenizer import Tokenizer

        model = self._loaded()
        parts = []
        for start in range(0, len(waveform), WINDOW):
            window = np.zeros(WINDOW, np.float32)
            samples = waveform[start : start + WINDOW]
            window[: len(samples)] = samples
            features = model.feature_extractor(window)[None, :, : model.feature_extractor.nb_max_frames]
            encoded = model.model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(features)))
            language = self._language
            if language is None and model.model.is_multilingual:
                language = model.model.detect_language(encoded)[0][0][0][2:-2]  # "<|en|>"
            tokenizer = Tokenizer(
                model.hf_tokenizer, model.model.is_multilingual, task="transcribe", language=language or "en"
            )
            prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
            found = model.model.generate(
                encoded, [prompt], beam_size=_BEAM, return_scores=True, return_no_speech_prob=True, max_length=224
            )[0]
            if found.no_speech_prob > _NO_SPEECH and found.scores[0] < _UNSURE:
                continue
            parts.append(tokenizer.decode(found.sequences_ids[0]).strip())
        return " ".join(part for part in parts if part)

    def _loaded(self) -> Any:
        with self._loading:
            if self._model is None:
                whisper = require("faster_whisper", "speech", "write down speech")
                on_gpu = self._device == "cuda"
                if self._device == "auto":
                    import ctranslate2

                    on_gpu = ctranslate2.get_cuda_device_count() > 0
                self._model = whisper.WhisperModel(
                    str(self._folder),
                    device="cuda" if on_gpu else "cpu",
                    compute_type="float16" if on_gpu else "int8",
                    cpu_threads=usable_cores(),
                    local_files_only=True,
                )
            return self._model


def join_model(parts: Sequence[Path]) -> Path:
    """A model folder in the cache, joined once from folders that hold `model.bin.part1`, `.part2`, ... and its other files.

    Args:
        parts: the folders, in the order of the parts.

    Raises:
        EncoderError: a part is missing, or the cache cannot be written.
    """
    pieces = []
    for number, folder in enumerate(parts, start=1):
        piece = folder / f"model.bin.part{number}"
        if not piece.is_file():
            raise EncoderError(f"{piece} is missing: install the packages with the parts of the Whisper model again")
        pieces.append(piece)
    others = sorted(file for folder in parts for file in folder.glob("*.json"))

    def join(target: Path) -> dict[str, str]:
        with (target / "model.bin").open("wb") as whole:
            for piece in pieces:
                with piece.open("rb") as part:
                    shutil.copyfileobj(part, whole)
        for file in others:
            shutil.copyfile(file, target / file.name)
        return {"parts": ", ".join(piece.name for piece in pieces)}

    key = fingerprint(*(file_digest(file) for file in [*pieces, *others]))
    return made_once("models", "whisper", key, join)[0]
