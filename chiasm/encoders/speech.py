"""Speech to embeddings through words: Whisper transcribes, a text encoder embeds the transcript.

Whisper (Radford et al. 2022, arXiv:2212.04356) in the form of CTranslate2, loaded by faster-whisper. Speech is found
first (Silero's detector, which faster-whisper brings) and cut at pauses into windows that Whisper can take, however
long the sound is. Where the model is found is left to `offline`, the embedding of texts to the text encoder.

Whisper was trained on windows of 30 s and pads what is shorter. Most of the work is in the padding, so here windows
are padded to 15 s only, and one whose transcript looks like a loop is done again with 30 s. That costs a quarter.
"""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from chiasm._optional import require
from chiasm.encoders.base import Embeddings, Encoder, Prepared, View
from chiasm.encoders.cache import file_digest, fingerprint
from chiasm.encoders.runtime import DEVICES, Device, usable_cores
from chiasm.errors import EncoderError
from chiasm.types import Audio, Media, Modality, Text

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

RATE = 16_000  # samples a second
FILES = ("model.bin", "config.json", "tokenizer.json")
"""What a folder with a Whisper model must hold."""

_VERSION = "1"  # of everything here that changes transcripts
_SPEECH = 25  # seconds of a window at most, the rest being padding that Whisper needs to find the end
_SHORT, _FULL = 15, 30  # seconds that windows are padded to
_MARGIN = 5  # seconds of padding at least, with _SHORT
_PAD = 0.2  # seconds kept before and after speech
_PAUSE = 0.5  # seconds of silence at which a long sound may be cut
_BATCH_CPU, _BATCH_CUDA = 4, 16
_LOOPS = 2.4  # ratio of compression above which a transcript repeats itself (Radford et al. 2022, section 4.5)
_NO_SPEECH, _UNSURE = 0.6, -1.0  # probability of no speech, mean log-probability of the tokens (ibid.)


class SpeechEncoder(Encoder):
    """The text encoder's embeddings of what is said. Comparable with those of texts: `vector_space` is the same.

    A sound in which no words are recognised gets a row of zeros and the text "": it has no place among texts.
    """

    def __init__(
        self,
        folder: Path,
        text: Encoder,
        *,
        language: str | None = None,
        device: Device = "auto",
        threads: int | None = None,
    ) -> None:
        """Name the model's folder; weights are read later.

        Args:
            folder: a Whisper model in the form of CTranslate2: `model.bin`, `config.json`, `tokenizer.json`.
            text: embeds the transcripts.
            language: code of the language that is spoken, e.g. `"en"`; None finds it out, sound by sound, which on
                single words goes wrong more often.
            device: `"auto"` is the GPU if CTranslate2 can use one (in float16), else the CPU (in int8).
            threads: cores to use on a CPU; None is all that this process may use.

        Raises:
            MissingExtraError: faster-whisper is not installed.
            EncoderError: the folder lacks a file, the device does not exist, or `text` does not take text.
        """
        missing = [file for file in FILES if not (folder / file).is_file()]
        if missing:
            raise EncoderError(
                f"{folder} is not a Whisper model in the form of CTranslate2: it has no {' and no '.join(missing)}. "
                "Convert one with ct2-transformers-converter, or name a folder that faster-whisper downloaded"
            )
        if "text" not in text.modalities:
            raise EncoderError(f"transcripts are embedded by an encoder of texts; {text.name} does not take text")
        if device not in DEVICES:
            raise EncoderError(f"the device must be one of {', '.join(DEVICES)}; got {device!r}")
        if (
            importlib.util.find_spec("faster_whisper") is None
        ):  # importing it takes half a second: not before it is used
            require("faster_whisper", "speech", "transcribe speech")
        self.name = f"whisper+{text.name}"
        self.modalities: frozenset[Modality] = frozenset({"audio"})
        self.dim = text.dim
        self.view = View(rate=RATE)
        self.batch_size = 32
        self._folder = folder
        self._text = text
        self._language = language
        self._device = device
        self._threads = threads or usable_cores()
        digests = [file_digest(file) for file in sorted(folder.iterdir()) if file.suffix in {".bin", ".json"}]
        self._fingerprint = fingerprint("whisper", _VERSION, language or "", text.fingerprint, *digests)
        self._model: WhisperModel | None = None
        self._loading = Lock()

    @property
    def fingerprint(self) -> str:
        """Hex digest over the speech model, the language, the text encoder and this module's version."""
        return self._fingerprint

    @property
    def vector_space(self) -> str:
        """That of the text encoder."""
        return self._text.vector_space

    def prepare(self, media: Media) -> Prepared:
        """Windows of speech, waveforms of at most 25 s at 16 kHz; none where nobody speaks."""
        self._require(media.modality)
        assert isinstance(media, Audio)
        waveform = media.waveform
        if media.rate != RATE:
            import soxr

            waveform = soxr.resample(waveform, media.rate, RATE)
        return _speech(np.ascontiguousarray(waveform, dtype=np.float32))

    def encode_prepared(self, modality: Modality, batch: Sequence[Prepared]) -> Embeddings:
        """Transcribe and embed sounds, a row each."""
        self._require(modality)
        vectors = np.zeros((len(batch), self.dim), np.float32)
        texts = self._transcribe(batch)
        spoken = [row for row, text in enumerate(texts) if text]
        if spoken:
            vectors[spoken] = self._text.encode([Text(texts[row]) for row in spoken]).vectors
        return Embeddings(vectors, texts)

    def _transcribe(self, sounds: Sequence[Sequence[Float[np.ndarray, " samples"]]]) -> tuple[str, ...]:
        """What is said in each sound, from the transcripts of its windows."""
        windows = [(row, window) for row, sound in enumerate(sounds) for window in sound]
        if not windows:
            return ("",) * len(sounds)
        model = self._loaded()
        # Windows of like length go together, so that little is padding.
        order = sorted(range(len(windows)), key=lambda number: len(windows[number][1]))
        rows = _BATCH_CPU if model.model.device == "cpu" else _BATCH_CUDA
        groups = [order[start : start + rows] for start in range(0, len(order), rows)]
        with ThreadPoolExecutor(self._threads, thread_name_prefix="chiasm-speech") as pool:
            heard = list(pool.map(lambda group: self._hear([windows[number][1] for number in group]), groups))
        words = {
            number: text
            for group, texts in zip(groups, heard, strict=True)
            for number, text in zip(group, texts, strict=True)
        }
        said: list[list[str]] = [[] for _ in sounds]
        for number, (row, _) in enumerate(windows):
            said[row].append(words[number])
        return tuple(" ".join(filter(None, parts)) for parts in said)

    def _hear(self, windows: Sequence[Float[np.ndarray, " samples"]]) -> list[str]:
        """Transcripts of a batch of windows."""
        longest = max(len(window) for window in windows) / RATE
        texts = self._generate(windows, min(_FULL, max(_SHORT, int(np.ceil(longest)) + _MARGIN)), no_repeat=0)
        for number, text in enumerate(texts):
            if _loops(text):
                texts[number] = self._generate([windows[number]], _FULL, no_repeat=3)[0]
        return texts

    def _generate(self, windows: Sequence[Float[np.ndarray, " samples"]], seconds: int, *, no_repeat: int) -> list[str]:
        """Transcripts of windows padded to `seconds`, by greedy search, without words that occur again as `no_repeat`."""
        import ctranslate2

        model = self._loaded()
        features = np.stack(
            [
                model.feature_extractor(np.pad(window, (0, seconds * RATE - len(window))), padding=0)
                for window in windows
            ]
        )
        encoded = model.model.encode(ctranslate2.StorageView.from_array(features.astype(np.float32)))
        token = model.hf_tokenizer.token_to_id
        start, end = token("<|startoftranscript|>"), token("<|notimestamps|>")
        if model.model.is_multilingual:
            if self._language is None:
                spoken = [found[0][0] for found in model.model.detect_language(encoded)]
            else:
                spoken = [f"<|{self._language}|>"] * len(windows)
            prompts = [[start, token(language), token("<|transcribe|>"), end] for language in spoken]
        else:
            prompts = [[start, end] for _ in windows]
        results = model.model.generate(
            encoded,
            prompts,
            beam_size=1,
            max_length=min(448, 32 + 12 * seconds),  # nobody says more; a loop ends here
            no_repeat_ngram_size=no_repeat,
            return_scores=True,
            return_no_speech_prob=True,
        )
        texts = []
        for result in results:
            tokens = result.sequences_ids[0]
            likelihood = result.scores[0] * len(tokens) / (len(tokens) + 1)  # the end of the text counts as a token
            silent = result.no_speech_prob > _NO_SPEECH and likelihood < _UNSURE
            texts.append("" if silent else model.hf_tokenizer.decode(tokens, skip_special_tokens=True).strip())
        return texts

    def _loaded(self) -> WhisperModel:
        with self._loading:
            if self._model is None:
                self._model = self._load()
            return self._model

    def _load(self) -> WhisperModel:
        import ctranslate2
        from faster_whisper import WhisperModel

        device = self._device
        if device == "auto":
            device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        try:
            model = WhisperModel(
                str(self._folder),
                device=device,
                compute_type="int8" if device == "cpu" else "float16",
                cpu_threads=1,  # windows are done side by side, one core each, as in `runtime`
                num_workers=self._threads if device == "cpu" else 1,
                local_files_only=True,
            )
        except (RuntimeError, ValueError) as error:
            raise EncoderError(f"the Whisper model in {self._folder} cannot be loaded on {device}: {error}") from error
        language = self._language
        if language is not None and model.hf_tokenizer.token_to_id(f"<|{language}|>") is None:
            raise EncoderError(
                f"Whisper does not know the language {language!r}; it takes codes such as en, fr, de, zh, or None to "
                "find it out"
            )
        return model


def _speech(waveform: Float[np.ndarray, " samples"]) -> list[Float[np.ndarray, " samples"]]:
    """Pieces of the waveform that hold all speech, each at most 25 s long, cut in pauses where there are any."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    options = VadOptions(
        min_speech_duration_ms=100,
        max_speech_duration_s=_SPEECH,
        min_silence_duration_ms=int(_PAUSE * 1000),
        speech_pad_ms=int(_PAD * 1000),
    )
    pieces: list[tuple[int, int]] = []
    for found in get_speech_timestamps(waveform, options):
        if pieces and found["end"] - pieces[-1][0] <= _SPEECH * RATE:
            pieces[-1] = pieces[-1][0], found["end"]
        else:
            pieces.append((found["start"], found["end"]))
    return [waveform[start:end] for start, end in pieces]


def _loops(text: str) -> bool:
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) > _LOOPS if raw else False
