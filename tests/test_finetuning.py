"""Networks in training: what is stored, what is trained, and that the encoder that is written is the network."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from killing import at_every_step
from media_files import tone
from tiny_models import MAKERS
from torch import Tensor, nn

import chiasm
from chiasm import encoders
from chiasm.encoders.base import Encoder
from chiasm.encoders.huggingface import HuggingFaceEncoder
from chiasm.encoders.offline import ImageEncoder, TextEncoder, class_names, image_weights, text_folder
from chiasm.encoders.runtime import Arrays
from chiasm.encoders.tuned import Part, tuned_parts, write_tuned
from chiasm.errors import ChiasmError, EncoderError, MediaError
from chiasm.finetuning.items import Examples, Items, Order, mix, stack
from chiasm.finetuning.recipe import OF_PAIRS, Recipe, RecipeOptions
from chiasm.finetuning.tasks import Rows, Task, row_weights
from chiasm.finetuning.towers import Tower, tower_of
from chiasm.finetuning.trainer import Classifier, Tuned, embed, train
from chiasm.finetuning.views import Views, change, store_views, stretch
from chiasm.recognition.targets import Target
from chiasm.types import Audio, Image, Media, Modality, Outcome, Text
from chiasm.verbs.climb import train_once

pytestmark = pytest.mark.filterwarnings("ignore:.*is run by PyTorch, slower on a CPU:RuntimeWarning")

RNG = np.random.default_rng(0)
PICTURES = [Image(RNG.integers(0, 256, (40 + 9 * n, 60, 3), dtype=np.uint8)) for n in range(3)]
TEXTS = [Text("a red cat"), Text("the dog on the mat"), Text("photo")]
SOUNDS = [Audio(tone(1.5, 16_000, 300.0 * (n + 1)), 16_000) for n in range(2)]

OFFLINE: dict[str, Callable[[], Encoder]] = {
    "image": lambda: ImageEncoder(image_weights(), class_names(), device="cpu"),
    "text": lambda: TextEncoder(text_folder(), device="cpu"),
}
FAMILIES: list[tuple[str, Modality]] = [
    ("bert", "text"),
    ("llama", "text"),
    ("sentence", "text"),
    ("clip", "image"),
    ("clip", "text"),
    ("siglip", "text"),
    ("vit", "image"),
    ("dinov2", "image"),
    ("resnet", "image"),
    ("convnext", "image"),
    ("wav2vec2", "audio"),
    ("ast", "audio"),
    ("clap", "audio"),
]


def media_of(modality: Modality) -> Sequence[Media]:
    media: dict[Modality, Sequence[Media]] = {"image": PICTURES, "text": TEXTS, "audio": SOUNDS}
    return media[modality]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / name
            torch.manual_seed(0)
            MAKERS[name](made[name])
        return made[name]

    return make


def embedded(tower: Tower, media: Sequence[Media]) -> np.ndarray:
    with torch.no_grad():
        vectors: np.ndarray = tower(**stack(tower.stored(media))).numpy()
    return vectors


def close(values: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    return float(np.abs(values - expected).max()) <= tolerance * float(np.abs(expected).max())


@pytest.mark.parametrize("trained", [None, 1, 16])
def test_the_offline_network_of_pictures_in_two_parts_is_the_encoder(trained: int | None) -> None:
    encoder = OFFLINE["image"]()
    tower = tower_of(encoder, "image", trained)
    assert close(embedded(tower, PICTURES), encoder.encode(PICTURES).vectors, 5e-3)  # half precision between the parts


@pytest.mark.parametrize("trained", [None, 6])
def test_the_offline_network_of_texts_in_two_parts_is_the_encoder(trained: int | None) -> None:
    encoder = OFFLINE["text"]()
    assert close(embedded(tower_of(encoder, "text", trained), TEXTS), encoder.encode(TEXTS).vectors, 1e-4)


@pytest.mark.parametrize(("name", "modality"), FAMILIES)
def test_models_of_many_families_are_trained_and_become_the_encoder(
    name: str, modality: Modality, models: Callable[[str], Path], tmp_path: Path
) -> None:
    """In two parts it is the encoder; after a step it is not; and what is written is what it has become."""
    encoder = HuggingFaceEncoder(str(models(name)), device="cpu")
    media = media_of(modality)
    tower = tower_of(encoder, modality, 1)
    assert tower.frozen
    expected = encoder.encode(media).vectors
    assert close(embedded(tower, media), expected, 1e-3)
    stored = tower.stored(media)
    names = tower.choose("blocks", 1, stack(stored[:1]))
    assert names
    with torch.no_grad():
        for parameter in tower.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.1)
    tower.merge()
    changed = embedded(tower, media)
    assert not close(changed, expected, 1e-3)
    write_tuned(tmp_path / "encoder", str(models(name)), {modality: Part(tower.kind, tower.save, tower.options, {})})
    opened = next(
        one for one in encoders.resolve(str(tmp_path / "encoder"), device="cpu") if modality in one.modalities
    )
    assert close(opened.encode(media).vectors, changed, 1e-3)
    assert opened.fingerprint != encoder.fingerprint
    assert opened.encode(media).vectors.shape == expected.shape


@pytest.mark.parametrize("modality", ["image", "text"])
def test_an_offline_encoder_that_was_trained_needs_no_pytorch_and_serves_every_modality(
    modality: Modality, tmp_path: Path
) -> None:
    encoder = OFFLINE[modality]()
    tower = tower_of(encoder, modality, 1)
    media = media_of(modality)
    tower.choose("norms", 1, stack(tower.stored(media[:1])))
    with torch.no_grad():
        for parameter in tower.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    tower.merge()
    write_tuned(tmp_path / "encoder", "offline", {modality: Part(tower.kind, tower.save, tower.options, {})})
    resolved = encoders.resolve(str(tmp_path / "encoder"), device="cpu")
    assert {"image", "text", "video"} <= {one for each in resolved for one in each.modalities}
    own = next(one for one in resolved if modality in one.modalities)
    assert close(own.encode(media).vectors, embedded(tower, media), 5e-3)
    before = {m: one.fingerprint for one in encoders.resolve("offline", device="cpu") for m in one.modalities}
    after = {m: one.fingerprint for one in resolved for m in one.modalities}
    assert {m for m in after if after[m] != before[m]} >= {modality}
    other: Modality = "text" if modality == "image" else "image"
    assert after[other] == before[other]
    moved = tmp_path / "moved"
    (tmp_path / "encoder").rename(moved)
    assert {m: one.fingerprint for one in encoders.resolve(str(moved)) for m in one.modalities} == after


def test_low_rank_changes_are_merged() -> None:
    tower = tower_of(OFFLINE["image"](), "image", 2)
    start = tower.weights()
    names = tower.choose("lora", 4, stack(tower.stored(PICTURES[:1])))
    assert all("lora" in name for name in names)
    with torch.no_grad():
        for parameter in tower.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
        trained = tower(**stack(tower.stored(PICTURES))).numpy()
    tower.merge()
    assert tower.weights().keys() == start.keys()
    assert close(embedded(tower, PICTURES), trained, 1e-4)
    tower.set_weights(start)
    assert not close(embedded(tower, PICTURES), trained, 1e-3)


def test_norms_are_rows_and_blocks_of_all_is_everything_behind() -> None:
    tower = tower_of(OFFLINE["text"](), "text", 2)
    sample = stack(tower.stored(TEXTS[:1]))
    tower.choose("norms", 1, sample)
    assert {parameter.ndim for parameter in tower.parameters() if parameter.requires_grad} == {1}
    few = sum(parameter.numel() for parameter in tower.parameters() if parameter.requires_grad)
    names = tower.choose("blocks", 1, sample)
    assert sum(parameter.numel() for parameter in tower.parameters() if parameter.requires_grad) > 100 * few
    assert not any("embeddings" in name or ".layer.3." in name for name in names)


def test_what_cannot_be_trained_says_so() -> None:
    video = next(one for one in encoders.resolve("offline", device="cpu") if one.modalities == {"video"})
    with pytest.raises(EncoderError, match="cannot be trained on video"):
        tower_of(video, "video", None)
    with pytest.raises(EncoderError, match="has 16 blocks"):
        tower_of(OFFLINE["image"](), "image", 17)


def test_a_model_with_two_halves_says_so(models: Callable[[str], Path]) -> None:
    with pytest.raises(EncoderError, match="for queries and another for documents"):
        tower_of(HuggingFaceEncoder(str(models("router")), device="cpu"), "text", 1)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "damaged"),
        ('{"format": "chiasm-encoder", "format_version": 99}', "version 99"),
        ('{"format": 1}', "version None"),
    ],
)
def test_a_damaged_encoder_says_so(content: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "encoder.json").write_text(content)
    with pytest.raises(EncoderError, match=match):
        encoders.resolve(str(tmp_path))


def test_an_encoder_made_of_one_like_it_says_so(tmp_path: Path) -> None:
    write_tuned(tmp_path / "one", "offline", {})
    write_tuned(tmp_path / "two", str(tmp_path / "one"), {})
    with pytest.raises(EncoderError, match="its base is one like it"):
        tuned_parts(tmp_path / "two", "cpu")
    with pytest.raises(EncoderError, match="takes no option but int8"):
        encoders.resolve(f"image={tmp_path / 'one'},dim=3")


def test_weights_that_are_missing_say_so(tmp_path: Path) -> None:
    tower = tower_of(OFFLINE["image"](), "image", 1)
    write_tuned(tmp_path / "encoder", "offline", {"image": Part(tower.kind, tower.save, {}, {})})
    (tmp_path / "encoder" / "image" / "weights.safetensors").write_bytes(b"no")
    encoder = encoders.resolve(str(tmp_path / "encoder"), device="cpu")[0]
    with pytest.raises(EncoderError, match="cannot be read"):
        encoder.encode(PICTURES[:1])


# --------------------------------------------------------------------------------------------------------------- views


@pytest.mark.parametrize("augment", ["light", "strong"])
@pytest.mark.parametrize("medium", [PICTURES[0], Text("one two three four"), SOUNDS[0]])
def test_changed_copies_differ_and_are_the_same_for_the_same_draw(medium: Media, augment: Any) -> None:
    first, again, other = (change(medium, np.random.default_rng(seed), augment) for seed in (1, 1, 2))
    content = [
        getattr(one, {"image": "pixels", "text": "text", "audio": "waveform"}[one.modality])
        for one in (first, again, other)
    ]
    assert np.array_equal(content[0], content[1])
    assert not np.array_equal(content[0], content[2])


def test_the_smallest_media_are_changed_as_well() -> None:
    assert change(Image(np.zeros((1, 1, 3), np.uint8)), np.random.default_rng(0)).modality == "image"
    assert change(Text("one"), np.random.default_rng(0)) == Text("one")
    for seed in range(30):  # every operation comes
        for side in (1, 5):
            strong = change(Image(np.zeros((side, side, 3), np.uint8)), np.random.default_rng(seed), "strong")
            assert strong.modality == "image"
        short = change(Audio(np.zeros(7, np.float32), 16_000), np.random.default_rng(seed), "strong")
        assert isinstance(short, Audio)
        assert 5 <= len(short.waveform) <= 9


def loudest(waveform: np.ndarray, rate: int) -> float:
    """The frequency that a sound has most of."""
    return float(np.abs(np.fft.rfft(waveform)).argmax() * rate / len(waveform))


def test_a_stretched_sound_lasts_longer_and_is_as_high() -> None:
    waveform = tone(2.0, 16_000, 440.0)
    for factor in (0.8, 1.0, 1.25):
        longer = stretch(waveform, factor)
        assert len(longer) == pytest.approx(factor * len(waveform), rel=0.02)
        assert loudest(longer, 16_000) == pytest.approx(440, rel=0.01)
        assert longer.std() == pytest.approx(waveform.std(), rel=0.1)


def test_strong_changes_of_a_sound_bend_it_and_leave_stripes_out() -> None:
    noise = Audio(np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32), 16_000)
    silent = 0
    for seed in range(8):
        bent = change(noise, np.random.default_rng(seed), "strong")
        assert isinstance(bent, Audio)
        assert 0.8 < len(bent.waveform) / 32_000 < 1.25
        # In the stripe of time there is nothing but the noise that is added.
        parts = bent.waveform[: len(bent.waveform) // 400 * 400].reshape(-1, 400)
        silent += int((parts.std(axis=1) < 0.2 * np.median(parts.std(axis=1))).any())
    assert silent >= 4
    hum = Audio(tone(2.0, 16_000, 440.0), 16_000)
    heights = [
        loudest(one.waveform, 16_000)
        for seed in range(8)
        if isinstance(one := change(hum, np.random.default_rng(seed), "strong"), Audio)
    ]
    assert all(380 < height < 510 for height in heights)
    assert max(heights) - min(heights) > 30


def test_views_are_stored_once_and_files_that_cannot_be_opened_are_left_out(tmp_path: Path) -> None:
    opened: list[int] = []

    def opener(number: int) -> Callable[[], Media]:
        def open_() -> Media:
            opened.append(number)
            if number == 1:
                raise MediaError(Outcome.BROKEN, "gone")
            return TEXTS[number]

        return open_

    tower = tower_of(OFFLINE["text"](), "text", 2)
    openers = [opener(number) for number in range(3)]
    views = store_views(tower, openers, tmp_path, views=2, seed=0)
    assert views.items.tolist() == [0, 2]
    assert np.allclose(
        embed(tower, views, np.arange(2)), OFFLINE["text"]().encode([TEXTS[0], TEXTS[2]]).vectors, atol=1e-5
    )
    again = store_views(tower, openers, tmp_path, views=2, seed=0)
    assert opened == [0, 1, 2]
    for name, array in views.get(1, 1).items():
        assert np.array_equal(array, again.get(1, 1)[name])


def test_shorter_arrays_are_padded_at_their_end() -> None:
    batch = stack(
        [{"a": np.ones((1, 2), np.float32), "n": np.array(1)}, {"a": np.ones((3, 2), np.float32), "n": np.array(2)}]
    )
    assert batch["a"][0].tolist() == [[1, 1], [0, 0], [0, 0]]
    assert batch["n"].tolist() == [1, 2]


# ------------------------------------------------------------------------------------------------------------- training


class Planted(Tower):
    """One matrix, behind stored rows in which the classes lie in directions that the start hardly sees."""

    kind = "library"

    def __init__(self, *, most: int = 1000, poison: bool = False) -> None:
        super().__init__()
        self.blocks, self.frozen, self.options = 1, 0, {}
        self.most, self.poison, self.calls = most, poison, 0
        self.sizes: list[int] = []
        self.layer = nn.Linear(6, 4, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(4, 6) + 0.02 * torch.eye(4, 6).roll(2, 1))

    def stored(self, media: Sequence[Media]) -> list[Arrays]:
        return [{"states": np.array(one.text.split(), np.float32)} for one in media if isinstance(one, Text)]

    def forward(self, **arrays: Tensor) -> Tensor:
        states = arrays["states"]
        if torch.is_grad_enabled():
            self.sizes.append(len(states))
            if len(states) > self.most:
                raise torch.OutOfMemoryError("not enough")
            self.calls += 1
            if self.poison and self.calls > 30:
                states = states * float("nan")
        output: Tensor = self.layer(states)
        return output

    def save(self, folder: Path) -> None:
        (folder / "matrix").write_text("here")


CODES = np.arange(60) % 3
KIND = Task("classes", 0, 3)
RECIPE = Recipe(method="full", epochs=12, batch_size=8, rate=0.1, views=0, mixup=0.0, average=1.0)


@pytest.fixture
def planted(tmp_path: Path) -> Views:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(60, 6)) * [1, 1, 1, 1, 0.2, 0.2]
    rows[np.arange(60), 3 + CODES] += 3 * (CODES > 0)
    openers = [lambda row=row: Text(" ".join(map(str, row))) for row in rows]
    return store_views(Planted(), openers, tmp_path / "views", views=1, seed=0)


def learn(
    tower: Tower,
    views: Views,
    folder: Path,
    said: list[str] | None = None,
    recipe: Recipe = RECIPE,
    source: np.ndarray | None = None,
) -> Tuned:
    target = Target("kind", "classes", CODES, np.ones(60, dtype=bool), np.arange(3))
    examples = Examples([target], np.arange(60), np.zeros(60, dtype=bool) if source is None else source)
    rows = np.flatnonzero(examples.source | (np.arange(60) < 45))
    say = (said if said is not None else []).append
    frozen = embed(tower, views, np.arange(60))
    more: dict[str, Any] = {"measured": np.arange(45, 60), "device": "cpu", "say": say}
    return train(tower, views, examples, rows, recipe, folder, frozen=frozen, **more)


def rows_of(codes: np.ndarray) -> Rows:
    """Return one column of three classes."""
    weights = np.ones((len(codes), 1), np.float32)
    return Rows((KIND,), np.eye(3, dtype=np.float32)[codes], weights)


def batch_of(source: bool = False) -> dict[str, Tensor]:
    """Return an item of each of three classes."""
    every = torch.ones(3, dtype=torch.bool)
    return {"targets": torch.eye(3), "weights": torch.ones(3, 1), "source": every & source}


def losses(tuned: Tuned, name: str) -> list[float]:
    return [entry[name] for entry in tuned.history if name in entry]


def spread(rows: np.ndarray, codes: np.ndarray) -> float:
    """How far means of classes are apart, relative to rows within them."""
    means = np.stack([rows[codes == code].mean(axis=0) for code in range(3)])
    return float(means.var(axis=0).sum() / (rows - means[codes]).var(axis=0).sum())


def test_training_finds_what_the_start_hardly_sees(planted: Views, tmp_path: Path) -> None:
    tower = Planted()
    start = tower.weights()
    tuned = learn(tower, planted, tmp_path / "run")
    assert losses(tuned, "loss")[-1] < losses(tuned, "loss")[0]
    before = embed(tower, planted, np.arange(45, 60))
    assert spread(tuned.embeddings, CODES[45:]) > 1.5 * spread(before, CODES[45:])
    assert all(torch.equal(value, start[name]) for name, value in tower.weights().items())


def test_the_accuracy_of_what_is_held_out_is_logged(planted: Views, tmp_path: Path) -> None:
    accuracy = losses(learn(Planted(), planted, tmp_path / "run"), "eval_accuracy")
    assert len(accuracy) == RECIPE.epochs
    assert {round(9 * one, 6) for one in accuracy} <= {*range(10)}  # a fifth of 45 is held out
    assert accuracy[-1] > 1 / 3


def test_an_average_is_between_the_start_and_the_end(planted: Views, tmp_path: Path) -> None:
    end = learn(Planted(), planted, tmp_path / "end").weights["layer.weight"]
    half = replace(RECIPE, average=0.5)
    middle = learn(Planted(), planted, tmp_path / "half", recipe=half).weights["layer.weight"]
    assert torch.allclose(middle, (end + Planted().weights()["layer.weight"]) / 2, atol=1e-6)


def test_what_was_trained_is_read_back(planted: Views, tmp_path: Path) -> None:
    tuned = learn(Planted(), planted, tmp_path / "run")
    tuned.save(tmp_path / "fold.safetensors")
    again = Tuned.load(tmp_path / "fold.safetensors")
    assert again is not None
    assert np.array_equal(again.embeddings, tuned.embeddings)
    assert torch.equal(again.weights["layer.weight"], tuned.weights["layer.weight"])
    assert Tuned.load(tmp_path / "none.safetensors") is None


def test_too_little_memory_halves_the_batch_and_gives_the_same(planted: Views, tmp_path: Path) -> None:
    said: list[str] = []
    whole = learn(Planted(), planted, tmp_path / "whole")
    tower = Planted(most=3)
    halved = learn(tower, planted, tmp_path / "halved", said)
    assert halved.batch_size == 2
    assert [line.split(":")[0] for line in said] == ["Memory is too small"] * 2
    assert torch.allclose(halved.weights["layer.weight"], whole.weights["layer.weight"], atol=1e-4)


def test_memory_that_is_too_small_after_some_steps_gives_the_same(planted: Views, tmp_path: Path) -> None:
    class Late(Planted):
        def forward(self, **arrays: Tensor) -> Tensor:
            self.most = 3 if self.calls >= 4 else 1000
            return super().forward(**arrays)

    whole = learn(Planted(), planted, tmp_path / "whole")
    late = learn(Late(), planted, tmp_path / "late")
    assert late.batch_size == 2
    assert torch.allclose(late.weights["layer.weight"], whole.weights["layer.weight"], atol=1e-4)


def test_memory_for_not_even_one_item_says_so(planted: Views, tmp_path: Path) -> None:
    tower = Planted(most=0)
    tower.choose = lambda *_: [name for name, _ in tower.named_parameters()]  # type: ignore[method-assign]
    with pytest.raises(ChiasmError, match="one item at a time"):
        learn(tower, planted, tmp_path / "run")


def test_a_loss_that_is_no_number_stops_and_names_the_last_checkpoint(planted: Views, tmp_path: Path) -> None:
    with pytest.raises(ChiasmError, match=r"no longer a finite number at step \d+ of") as error:
        learn(Planted(poison=True), planted, tmp_path / "run")
    assert "checkpoint-" in str(error.value)
    assert [path for path in (tmp_path / "run").iterdir() if path.name in str(error.value)]


class Stopped(Exception):
    """In place of a kill."""


class Killed(Planted):
    """Ends the process of training in the middle of its third epoch."""

    def forward(self, **arrays: Tensor) -> Tensor:
        if torch.is_grad_enabled() and self.calls >= 12:
            raise Stopped
        return super().forward(**arrays)


@pytest.mark.parametrize("options", [{"mixup": 0.5}, {"ema": 0.9, "dropout": 0.3, "sampling": "over"}])
def test_after_a_kill_the_numbers_are_the_same(options: RecipeOptions, planted: Views, tmp_path: Path) -> None:
    recipe = replace(RECIPE, **options)
    whole = learn(Planted(), planted, tmp_path / "whole", recipe=recipe)
    with pytest.raises(Stopped):
        learn(Killed(), planted, tmp_path / "killed", recipe=recipe)
    assert list((tmp_path / "killed").glob("checkpoint-*"))
    again = learn(Planted(), planted, tmp_path / "killed", recipe=recipe)
    assert torch.equal(again.weights["layer.weight"], whole.weights["layer.weight"])
    assert losses(again, "eval_loss") == losses(whole, "eval_loss")


def test_a_kill_at_any_step_leaves_what_gives_the_same_numbers(planted: Views, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=2, ema=0.5)
    whole = learn(Planted(), planted, tmp_path / "whole", recipe=recipe)
    work = tmp_path / "work"

    def run() -> Tuned:
        work.mkdir(exist_ok=True)
        return train_once(work / "fold-0", Tuned.load, lambda folder: learn(Planted(), planted, folder, recipe=recipe))

    def check() -> None:
        again = run()
        assert torch.equal(again.weights["layer.weight"], whole.weights["layer.weight"])
        assert losses(again, "loss") == losses(whole, "loss")
        assert Tuned.load(work / "fold-0.safetensors") is not None

    steps = at_every_step(run, lambda: shutil.rmtree(work, ignore_errors=True), check)
    assert steps >= 3  # the folders of two checkpoints, and the result


@pytest.mark.parametrize("schedule", ["linear", "constant", "step"])
def test_the_rate_falls_as_asked(schedule: Any, planted: Views, tmp_path: Path) -> None:
    """The logged rate is that of the head after each of 12 epochs, one of which is the warm-up."""
    recipe = replace(RECIPE, schedule=schedule, warmup=1 / 12, patience=0)
    rates = np.array(losses(learn(Planted(), planted, tmp_path / "run", recipe=recipe), "learning_rate")) / 1e-2
    assert len(rates) == 12
    if schedule == "linear":
        assert np.allclose(np.diff(rates[1:]), -1 / 11, atol=0.02)
    else:
        thirds = [1, 1, 1] if schedule == "constant" else [1, 0.1, 0.01]
        assert rates[[2, 6, 10]] == pytest.approx(thirds)


def test_sgd_learns_as_well(planted: Views, tmp_path: Path) -> None:
    recipe = replace(RECIPE, optimizer="sgd", rate=0.5, head_rate=0.1)
    tuned = learn(Planted(), planted, tmp_path / "run", recipe=recipe)
    assert losses(tuned, "loss")[-1] < losses(tuned, "loss")[0]


def test_the_focal_loss_weighs_what_is_known_less(planted: Views, tmp_path: Path) -> None:
    plain = learn(Planted(), planted, tmp_path / "plain")
    focal = learn(Planted(), planted, tmp_path / "focal", recipe=replace(RECIPE, focal=2.0))
    assert losses(focal, "loss")[0] < losses(plain, "loss")[0]


class Watched(Planted):
    """Remembers the weights that each step begins with."""

    def forward(self, **arrays: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.seen = [*getattr(self, "seen", []), self.layer.weight.detach().clone()]
        return super().forward(**arrays)


def test_the_moving_average_is_that_of_the_steps(planted: Views, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=2, patience=0)
    watched = Watched()
    last = learn(watched, planted, tmp_path / "plain", recipe=recipe).weights["layer.weight"]
    expected, *steps = [*watched.seen[2:], last]  # the first two forward passes were before the first step
    for step in steps:
        expected = 0.7 * expected + 0.3 * step
    averaged = learn(Planted(), planted, tmp_path / "averaged", recipe=replace(recipe, ema=0.7))
    assert torch.allclose(averaged.weights["layer.weight"], expected, atol=1e-6)
    assert not torch.allclose(expected, last, atol=1e-3)


def test_the_average_is_what_early_stopping_measures(planted: Views, tmp_path: Path) -> None:
    plain, averaged = (
        losses(learn(Planted(), planted, tmp_path / str(ema), recipe=replace(RECIPE, epochs=2, ema=ema)), "eval_loss")
        for ema in (0.0, 0.9)
    )
    assert plain != averaged


def test_the_l1_norm_of_matrices_counts_while_learning() -> None:
    tower = Planted()
    model = Classifier(tower, [KIND], torch.zeros(4), torch.ones(3, 4), torch.ones(3), replace(RECIPE, l1=0.1))
    states = torch.randn(3, 6)
    losses_of = [float(model.train(mode)(**batch_of(), states=states)["loss"].detach()) for mode in (True, False)]
    norm = float(tower.layer.weight.detach().abs().sum()) + 3 * 4
    assert losses_of[0] - losses_of[1] == pytest.approx(0.1 * norm, rel=1e-4)


def test_embeddings_are_dropped_out_while_learning() -> None:
    model = Classifier(
        Planted(), [KIND], torch.zeros(4), torch.ones(3, 4), torch.zeros(3), replace(RECIPE, dropout=0.5)
    )
    states = torch.randn(3, 6)
    learned = {tuple(model.train()(**batch_of(), states=states)["logits"][:, 0].tolist()) for _ in range(4)}
    measured = {tuple(model.eval()(**batch_of(), states=states)["logits"][:, 0].tolist()) for _ in range(4)}
    assert len(learned) > 1
    assert len(measured) == 1


@pytest.mark.parametrize(("sampling", "each"), [("over", 12), ("under", 4)])
def test_classes_are_drawn_equally_often(sampling: Any, each: int, planted: Views) -> None:
    codes = np.array([0] * 12 + [1] * 4 + [2] * 8)
    nothing = np.zeros(24, dtype=bool)
    items = Items(planted, np.arange(24), rows_of(codes), nothing, replace(RECIPE, sampling=sampling), learned=True)
    order = Order(items, 4)
    drawn = [np.array([*order])]
    order.set_epoch(1)
    drawn.append(np.array([*order]))
    for rows in drawn:
        assert len(rows) == len(order)
        assert np.bincount(codes[rows]).tolist() == [each] * 3
        assert set(rows) >= set(range(24)) or sampling == "under"
    assert set(drawn[0]) != set(drawn[1]) or sampling == "over"


def test_cut_and_mixed_maps_have_a_rectangle_of_the_other() -> None:
    zeros, ones = ({"states": np.full((2, 16, 16), value, np.float16)} for value in (0, 1))
    shares = []
    for seed in range(20):
        mixed, share = mix(zeros, ones, replace(RECIPE, cutmix=1.0), np.random.default_rng(seed))
        rows, columns = (np.flatnonzero(mixed["states"][0].any(axis=axis)) for axis in (1, 0))
        assert mixed["states"].mean() == pytest.approx(1 - share, abs=1e-3)
        assert mixed["states"].sum() == 2 * len(rows) * len(columns)
        shares.append(share)
    assert len({*shares}) > 10
    assert not zeros["states"].any()
    tokens = {"states": np.zeros((4, 6), np.float32)}
    kept, share = mix(tokens, tokens, replace(RECIPE, cutmix=1.0), np.random.default_rng(0))
    assert kept is tokens
    assert share == 1
    both = replace(RECIPE, cutmix=1.0, mixup=1.0)
    kinds = {len(np.unique(mix(zeros, ones, both, np.random.default_rng(seed))[0]["states"])) for seed in range(12)}
    assert kinds >= {1, 2}  # all of one value where they are added, of two where there is a rectangle


# -------------------------------------------------------------------------------------------------- source and target


def test_in_turn_the_source_trains_the_network_and_the_target_the_head() -> None:
    recipe = replace(RECIPE, strategy="alternating")
    for is_source in (True, False):
        tower = Planted()
        model = Classifier(tower, [KIND], torch.zeros(4), torch.ones(3, 4), torch.zeros(3), recipe).train()
        model(**batch_of(is_source), states=torch.randn(3, 6))["loss"].backward()
        assert (tower.layer.weight.grad is not None) is is_source
        assert (model.weight.grad is not None) is not is_source


def test_alpha_is_the_share_of_the_source_in_the_loss() -> None:
    codes, source = np.array([0, 0, 0, 1, 0, 1]), np.array([True, True, True, True, False, False])
    held = np.array([False] * 5 + [True])
    for balance in (None, "balanced"):
        recipe = replace(RECIPE, alpha=0.3, class_weight=balance)
        weights = row_weights(codes, source, held, recipe)
        assert weights[source].sum() / weights[~held].sum() == pytest.approx(0.3)
        assert weights[~held].mean() == pytest.approx(1)
    assert weights[3] == pytest.approx(2 * weights[0])


def test_training_in_turn_learns_from_the_source(planted: Views, tmp_path: Path) -> None:
    recipe = replace(RECIPE, strategy="alternating")
    tuned = learn(Planted(), planted, tmp_path / "run", recipe=recipe, source=np.arange(60) < 30)
    assert not torch.allclose(tuned.weights["layer.weight"], Planted().weights()["layer.weight"], atol=1e-3)
    assert losses(tuned, "eval_loss")


# ----------------------------------------------------------------------------------------------- a target without labels


def test_nothing_is_held_out_without_patience(planted: Views, tmp_path: Path) -> None:
    tuned = learn(Planted(), planted, tmp_path / "run", recipe=replace(RECIPE, patience=0))
    assert len(losses(tuned, "loss")) == RECIPE.epochs
    assert not losses(tuned, "eval_loss")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "magic"}, "method takes"),
        ({"method": "full", "blocks": 2}, "leave blocks out"),
        ({"schedule": "magic"}, "schedule takes"),
        ({"optimizer": "sgd"}, "takes other rates"),
        ({"epochs": 0}, "epochs must be"),
        ({"label_smoothing": 1.0}, "label_smoothing must be"),
        ({"rate": float("nan")}, "rate must be"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"clip": "high"}, "clip must be"),
        ({"rank": None}, "rank must be"),
        ({"report_to": ["paper"]}, "report_to takes"),
        ({"augment": "strong", "views": 0}, "augment says"),
    ],
)
def test_options_out_of_range_say_so(options: Mapping[str, object], match: str) -> None:
    with pytest.raises(ChiasmError, match=match):
        Recipe(**options)  # type: ignore[arg-type]


def test_the_options_by_name_are_the_fields_of_the_recipe() -> None:
    assert get_type_hints(RecipeOptions) == get_type_hints(Recipe)
    assert set(OF_PAIRS) < set(RecipeOptions.__annotations__)
    with pytest.raises(TypeError, match="epoch'"):
        chiasm.finetune("collection", out="encoder", label="kind", epoch=3)  # type: ignore[call-arg]
