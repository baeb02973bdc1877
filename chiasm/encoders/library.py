"""Models as sentence-transformers loads them: what each takes, how it pools, and which of it ONNX Runtime may run.

The library knows the architectures. What it says of a model is found out once, with the weights loaded, and kept in the
cache (`describe`); from then on an encoder is made without them. Code that comes with a model is never run. What is put
in and what the vectors mean is left to `huggingface`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chiasm._optional import require
from chiasm.encoders.cache import fingerprint, make_once
from chiasm.errors import EncoderError, MissingExtraError
from chiasm.types import MODALITIES, Modality

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float16", "bfloat16")
FRAMES = 32  # of a video, where the model does not say how many it takes

_TOKENS = frozenset({"input_ids", "attention_mask", "token_type_ids"})
_FIXED_LENGTH = ("siglip", "siglip2")  # trained on texts padded to one length, with attention to the padding
_WINDOW = 30.0  # seconds of sound at a time, where the model does not say how many it takes
_TIMM = "timm_wrapper"


@dataclass(frozen=True)
class Description:
    """Properties of a model, as the library reports them.

    Attributes:
        dim: numbers a vector.
        inputs: modality -> names of the arrays that its network takes, where their shapes are such that ONNX Runtime may
            run it; none: the library runs it itself.
        batched: modalities of which the library may run several inputs at a time: each has the vector that it has alone.
        pooling: of a model without modules of its own: "pooler_output", "cls" or "mean"; empty: as its modules say.
        prompts: what is put before texts, by name.
        image_size: pixels of a picture's shorter side after scaling; None where that depends on the picture.
        rate: samples a second of sounds.
        window: samples of sound that it takes at a time.
        frames: of a video.
        exact_frames: whether it takes no other number of them.
        fewest_frames: that it takes.
        classes: names of the classes of its classifier, in order.
        parameters: of the network, their number.
        fuses: whether it takes a picture and words as one input, by the way that it takes each alone (a chat template).
    """

    dim: int
    inputs: Mapping[Modality, Sequence[str]]
    batched: Sequence[Modality] = ()
    pooling: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)
    image_size: int | None = None
    rate: int | None = None
    window: int = 0
    frames: int = FRAMES
    exact_frames: bool = False
    fewest_frames: int = 1
    classes: Sequence[str] = ()
    parameters: int = 0
    fuses: bool = False


def describe(folder: Path, name: str, key: str, *, dtype: str) -> Description:
    """Return the description of a model, from the cache if it was made before.

    Args:
        folder: of the model.
        name: of it, for messages.
        key: hex digest of everything that it depends on.
        dtype: that its weights are loaded in.

    Raises:
        EncoderError: the library cannot load it, weights are missing, or it takes nothing that is known here.
    """

    def make(_: Path) -> dict[str, str]:
        return {"description": json.dumps(asdict(_describe(folder, name, dtype)))}

    of_fields = fingerprint(key, *(one.name for one in fields(Description)))
    _, notes = make_once("models", Path(name).name, of_fields, make)
    return Description(**json.loads(notes["description"]))


def load(folder: Path, name: str, *, dtype: str, pooling: str) -> Any:
    """Load a model whole, on the CPU.

    Args:
        folder: of the model.
        name: of it, for messages.
        dtype: of its weights.
        pooling: see `Description`.

    Raises:
        EncoderError: it cannot be loaded, or only with code of its own.
    """
    _refuse_code(folder, name)
    library = _library(name)
    import torch
    import transformers

    options: dict[str, Any] = {
        "device": "cpu",
        "local_files_only": True,
        "trust_remote_code": False,
        "model_kwargs": {"dtype": getattr(torch, dtype)},
    }
    with explain(f"{name} cannot be loaded by sentence-transformers"):
        try:
            model = library.SentenceTransformer(str(folder), **options)
        except TypeError:  # of models whose type has a tokenizer, while they have only a feature extractor
            if not _has_extractor(folder):
                raise
            config = transformers.PreTrainedConfig()  # of no type: each kind of processor is tried
            model = library.SentenceTransformer(str(folder), processor_kwargs={"config": config}, **options)
    first = model[0]
    if pooling:
        if type(first.model).__name__.endswith("Encoder"):  # the library looks for its weights under other names
            with explain(f"the weights of {name} cannot be read"):
                whole = _auto_model(folder, dtype)[0]
                first.model.load_state_dict(whole.get_encoder().state_dict())
        model = library.SentenceTransformer(modules=_pooled(first, pooling), device="cpu")
        config = first.config
        if config.model_type in _FIXED_LENGTH:
            size = int(config.get_text_config().max_position_embeddings)
            first.processing_kwargs = {
                "text": {"padding": "max_length", "max_length": size, "return_attention_mask": False}
            }
    # Padding on the right never moves what stands before it: positions and means go by the mask.
    if model.tokenizer is not None and hasattr(model.tokenizer, "padding_side"):
        model.tokenizer.padding_side = "right"
    return model.eval()


def _has_extractor(folder: Path) -> bool:
    file = folder / "preprocessor_config.json"
    return file.is_file() and "feature_extractor_type" in read_settings(file)


def _auto_model(folder: Path, dtype: str) -> tuple[Any, Mapping[str, Any]]:
    """Return the model that transformers itself makes of a folder, and what it says about its weights."""
    import torch
    import transformers

    model, info = transformers.AutoModel.from_pretrained(
        folder, dtype=getattr(torch, dtype), local_files_only=True, trust_remote_code=False, output_loading_info=True
    )
    return model, info


def class_head(folder: Path, name: str, description: Description) -> tuple[np.ndarray, np.ndarray] | None:
    """Return weight [dim, classes] and bias of the classifier that reads a model's vectors; None where there is none."""
    if not description.classes:
        return None
    with explain(f"the classifier of {name} cannot be read"):
        _, linear = _classifier(folder)
    return linear.weight.detach().numpy().T.copy(), linear.bias.detach().numpy().copy()


def samples(
    modality: Modality, number: int, description: Description, generator: np.random.Generator | None = None
) -> list[Any]:
    """Return that many random inputs of a modality as the library takes them, of different sizes."""
    generator = np.random.default_rng(0) if generator is None else generator
    if modality == "text":
        letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
        words = ["".join(generator.choice(letters, size)) for size in generator.integers(1, 8, 12 * number)]
        return [text_input(" ".join(words[: 1 + 5 * row])) for row in range(number)]
    if modality == "image":
        from PIL import Image

        sizes = generator.integers(48, 96, (number, 2))
        return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    if modality == "audio":
        lengths = [max(1600, min(description.window, 32_000) // (row + 1)) for row in range(number)]
        return [audio_input(generator.normal(0, 0.1, length), description.rate or 16_000) for length in lengths]
    shape = (description.frames if description.exact_frames else 4, 64, 80, 3)
    return [video_input(generator.integers(0, 256, shape, dtype=np.uint8), 2.0) for _ in range(number)]


def text_input(text: str) -> dict[str, str]:
    """Return a text as the library takes it: named as one, since it would fetch what looks like the address of a file."""
    return {"text": text}


def fused_input(picture: Any, text: str) -> dict[str, Any]:
    """Return a picture and words as the library takes them as one input."""
    return {"image": picture, **text_input(text)}


def audio_input(waveform: np.ndarray, rate: int) -> dict[str, Any]:
    """Return a sound as the library takes it."""
    return {"array": np.asarray(waveform, np.float32), "sampling_rate": rate}


def video_input(frames: np.ndarray, seconds: float) -> dict[str, Any]:
    """Return a video as the library takes it, of frames at equal distances."""
    count = len(frames)
    metadata = {
        "total_num_frames": count,
        "fps": count / max(seconds, 1e-3),
        "duration": seconds,
        "frames_indices": list(range(count)),
    }
    return {"array": np.ascontiguousarray(frames.transpose(0, 3, 1, 2)), "video_metadata": metadata}


def read_settings(file: Path) -> dict[str, Any]:
    """Return what a JSON file of a model holds, nothing if that is no object."""
    content = json.loads(file.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def features(model: Any, inputs: Sequence[Any], prompt: str | None, task: str) -> dict[str, torch.Tensor]:
    """Return the arrays of some inputs of one modality, as the library makes them."""
    import torch

    made = model.preprocess(list(inputs), prompt=prompt, task=task)
    return {key: value for key, value in made.items() if isinstance(value, torch.Tensor)}


def network(model: Any, modality: Modality, names: Sequence[str]) -> torch.nn.Module:
    """Return a model as a module that takes arrays by position."""
    import torch

    class Embedded(torch.nn.Module):
        """All modules of a model, one after the other."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            given: dict[str, Any] = {**dict(zip(names, tensors, strict=True)), "modality": modality}
            if modality == "audio":
                # CLAP's extractor calls one window of each batch longer than it is, at random, as in training.
                given["is_longer"] = torch.zeros(len(tensors[0]), 1, dtype=torch.bool, device=tensors[0].device)
            embedding: torch.Tensor = self.model(given)["sentence_embedding"]
            return embedding

    return Embedded()


def part(model: Any, *names: str) -> Any:
    """Return the first processor, or part of one, that has an attribute of one of these names; None: there is none."""
    for module in model.modules():
        processor = getattr(module, "processor", None)
        for one in (processor, *(getattr(processor, kind, None) for kind in _PARTS)):
            if one is not None and any(hasattr(one, name) for name in names):
                return one
    return None


_PARTS = ("feature_extractor", "image_processor", "video_processor", "tokenizer")


# ------------------------------------------------------------------------------------------------------- described once


def _describe(folder: Path, name: str, dtype: str) -> Description:
    if not any((folder / file).is_file() for file in ("config.json", "modules.json")):
        raise EncoderError(
            f"{name}: there is no config.json in {folder}. A model's folder is what save_pretrained() writes"
        )
    plain = not (folder / "modules.json").is_file()
    model = load(folder, name, dtype=dtype, pooling="mean" if plain else "")
    missing = _missing_weights(model, folder, name, dtype)
    modalities: list[Modality] = [modality for modality in MODALITIES if modality in model.modalities]
    if not modalities:
        raise EncoderError(
            f"{name} takes {', '.join(map(str, model.modalities)) or 'nothing'}, and chiasm gives image, text, audio or "
            "video alone. Use a model that embeds one of them"
        )
    extractor = part(model, "sampling_rate")
    rate = int(extractor.sampling_rate) if extractor is not None else None
    frames = getattr(getattr(model[0], "config", None), "num_frames", None)
    described = Description(
        dim=0,
        inputs={},
        pooling="mean" if plain else "",
        prompts=dict(model.prompts),
        image_size=_image_size(part(model, "image_mean")),
        rate=rate,
        window=_window(extractor, rate),
        frames=frames if isinstance(frames, int) else FRAMES,
        exact_frames=isinstance(frames, int),
        fewest_frames=int(getattr(part(model, "temporal_patch_size"), "temporal_patch_size", 1)),
    )
    if plain and model[0].module_output_name == "token_embeddings" and modalities != ["text"]:
        described = _choose_pooling(model, folder, name, described, modalities[0], missing)
        model = load(folder, name, dtype=dtype, pooling=described.pooling)
        missing = [key for key in missing if not (key.startswith("pooler.") and described.pooling != "pooler_output")]
    missing = [key for key in missing if "pooler." not in key] if described.pooling in {"", "mean"} else missing
    if missing:
        raise EncoderError(
            f"the weights of {name} lack {len(missing)} tensors, e.g. {missing[0]}. The files belong to another model "
            "or are not complete: download it again"
        )
    dims: dict[Modality, int] = {}
    inputs: dict[Modality, Sequence[str]] = {}
    batched: list[Modality] = []
    for modality in modalities:
        with explain(f"{name} fails on {modality}"):
            tried = samples(modality, 2, described)
            vectors = [model.encode_document([one], show_progress_bar=False)[0] for one in tried]
            dims[modality] = vectors[0].shape[-1]
            inputs[modality] = _inputs(model, modality, tried) if dtype == "float32" else ()
            if not inputs[modality] and _may_batch(model, tried, np.stack(vectors)):
                batched.append(modality)
    if len(set(dims.values())) > 1:
        raise EncoderError(f"{name} gives vectors of different lengths: {dims}. A model of this kind is not supported")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return replace(
        described,
        dim=dims[modalities[0]],
        inputs=inputs,
        batched=batched,
        parameters=parameters,
        fuses=_fuses(model, described),
    )


def _fuses(model: Any, described: Description) -> bool:
    """Return whether a picture and words are one input, of the same kind as each alone.

    The library also names pairs that a head of their own reads (BLIP): those vectors are not trained to lie near others.
    """
    if "message" not in model.modalities or not model.supports(("image", "text")):
        return False
    (image,), (text,) = (samples(modality, 1, described) for modality in ("image", "text"))
    try:
        return bool(np.isfinite(model.encode_query([fused_input(image, text["text"])], show_progress_bar=False)).all())
    except Exception:  # noqa: BLE001  a processor may raise anything
        return False


def _may_batch(model: Any, tried: Sequence[Any], alone: np.ndarray) -> bool:
    """Return whether inputs have the same vectors side by side: some processors make one input of several pictures."""
    try:
        together = model.encode_document(list(tried), show_progress_bar=False)
    except Exception:  # noqa: BLE001  a processor may raise anything
        return False
    return together.shape == alone.shape and np.allclose(together, alone, rtol=1e-3, atol=1e-5)


def _choose_pooling(
    model: Any, folder: Path, name: str, described: Description, modality: Modality, missing: Sequence[str]
) -> Description:
    """Return the description of a model without modules of its own with what its vectors are.

    Those that its own classifier reads, if the folder has one and its vectors are among those below, else its
    `pooler_output`, if it gives one from weights that are there, else the mean over the last layer.
    """
    import torch

    with torch.inference_mode(), explain(f"{name} fails on {modality}"):
        given = features(model, samples(modality, 1, described), None, "document")
        accepted = inspect.signature(model[0].model.forward).parameters
        given = {key: value for key, value in given.items() if key in accepted}
        output = model[0].model(**given)
        states = output.last_hidden_state
        pooler = getattr(output, "pooler_output", None)
        candidates: dict[str, torch.Tensor] = {}
        if pooler is not None and not any("pooler." in key for key in missing):
            candidates["pooler_output"] = pooler.flatten(1)
        if modality == "image" and (folder / "config.json").is_file():
            candidates["mean"] = (states.flatten(2).mean(2) if states.ndim == 4 else states.mean(1)).float()
            if states.ndim == 3:
                candidates["cls"] = states[:, 0]
            classes = _class_names(model[0].config)
            if classes:
                classifier, linear = _classifier(folder)
                expected = classifier(**given).logits
                for pooling, vectors in candidates.items():
                    if linear.in_features != vectors.shape[1]:
                        continue
                    if torch.allclose(linear(vectors.float()), expected, rtol=1e-3, atol=1e-3):
                        return replace(described, pooling=pooling, classes=classes)
    return replace(described, pooling="pooler_output" if "pooler_output" in candidates else "mean")


def _class_names(config: Any) -> tuple[str, ...]:
    """Return the names of the classes of a folder's classifier; none where it has none, or they are but numbers."""
    names = getattr(config, "label_names", None)
    if not any("ForImageClassification" in one for one in config.architectures or ()) and config.model_type != _TIMM:
        return ()
    labels = [str(config.id2label[number]) for number in sorted(config.id2label)]
    if names and config.label_descriptions:
        labels = [str(config.label_descriptions.get(one, one)) for one in names]
    if all(label == f"LABEL_{number}" for number, label in enumerate(labels)):
        return ()
    return tuple(label.replace("_", " ").split(",")[0] for label in labels)


def _classifier(folder: Path) -> tuple[Any, torch.nn.Linear]:
    """Return the image classifier of a folder, and its last layer."""
    import torch
    import transformers

    model = transformers.AutoModelForImageClassification.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    ).eval()
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    return model, linear


def _inputs(model: Any, modality: Modality, tried: Sequence[Any]) -> tuple[str, ...]:
    """Return the names of the arrays of a modality, where they stack (or are tokens of a plain text); none elsewhere."""
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    if not isinstance(model[0], Transformer) or model[0].modality_config.keys() & {"message"}:
        return ()
    pools = [module for module in model if isinstance(module, Pooling)]
    if any(model.prompts.values()) and not all(pool.include_prompt for pool in pools):
        return ()
    method = getattr(model[0].model, model[0].modality_config[modality]["method"])
    accepted = set(inspect.signature(method).parameters) | ({"attention_mask"} if pools else set())
    one, two = (features(model, [sample], None, "document") for sample in tried)
    names = tuple(name for name in one if name in accepted and name != "is_longer")
    if modality == "text":
        return names if set(names) <= _TOKENS else ()
    stacks = all(one[name].shape == two[name].shape and len(one[name]) == 1 for name in names)
    return names if stacks and modality in {"image", "audio"} else ()


def _pooled(first: Any, pooling: str) -> list[Any]:
    """Return the modules of a model without modules of its own."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    if first.module_output_name != "token_embeddings":
        return [first]  # joint models give vectors
    if pooling == "pooler_output":
        first.modality_config = {
            modality: {**settings, "method_output_name": "pooler_output"}
            for modality, settings in first.modality_config.items()
        }
        return [first, _Flat()]
    return [first, Pooling(first.get_embedding_dimension(), pooling)]


def _Flat() -> Any:  # noqa: N802  a module
    import torch

    class Flat(torch.nn.Module):
        """Takes the pooled output, which some networks of pictures give with height and width 1, as the vector."""

        def forward(self, given: dict[str, Any], **_: Any) -> dict[str, Any]:
            given["sentence_embedding"] = given["token_embeddings"].flatten(1)
            return given

    return Flat()


def _missing_weights(model: Any, folder: Path, name: str, dtype: str) -> list[str]:
    """Return the names of tensors that the files lack: transformers fills them with random numbers and goes on."""
    from sentence_transformers.base.modules import Transformer

    missing: list[str] = []
    folders = {read_settings(file).get("model_type"): file.parent for file in sorted(folder.rglob("config.json"))}
    for module in model.modules():
        if isinstance(module, Transformer):
            with explain(f"the weights of {name} cannot be read"):
                missing += _auto_model(folders.get(module.config.model_type, folder), dtype)[1]["missing_keys"]
    return sorted(missing)


def _image_size(processor: Any) -> int | None:
    size = getattr(processor, "size", None)
    sides = [size[key] for key in ("shortest_edge", "height", "width") if size and size.get(key)]
    return max(sides) if sides else None


def _window(extractor: Any, rate: int | None) -> int:
    if rate is None:
        return 0
    for name in ("nb_max_samples", "n_samples"):  # CLAP; Whisper
        if isinstance(getattr(extractor, name, None), int):
            return int(getattr(extractor, name))
    if isinstance(getattr(extractor, "max_length", None), int):  # AST: frames of 10 ms
        return int(extractor.max_length) * rate // 100
    return round(_WINDOW * rate)


def _refuse_code(folder: Path, name: str) -> None:
    """Refuse models that need code of their own, or reach out of their folder.

    Raises:
        EncoderError: says which.
    """
    for file in (*folder.glob("modules.json"), *folder.rglob("router_config.json")):
        with explain(f"{file.name} of {name} does not describe modules"):
            content = json.loads(file.read_text(encoding="utf-8"))
            if file.name == "modules.json":
                types, paths = [one["type"] for one in content], [str(one["path"]) for one in content]
            else:
                types, paths = list(content["types"].values()), list(content["types"])
        foreign = [str(one) for one in types if not str(one).startswith("sentence_transformers.")]
        if foreign or not types:
            raise EncoderError(
                f"{name} is made of the modules {', '.join(foreign) or 'none'}, which is code of its own (trust_remote_code), "
                "not of sentence-transformers. Code of a model is never run: use a model without"
            )
        if not all((file.parent / path).resolve().is_relative_to(folder.resolve()) for path in paths):
            raise EncoderError(f"{name}: {file.name} names a folder outside of the model's own. Do not use this model")
    for file in folder.rglob("config.json"):
        with explain(f"config.json of {name} cannot be read"):
            config = json.loads(file.read_text(encoding="utf-8"))
        kind = config.get("model_type") if isinstance(config, dict) else None
        if isinstance(config, dict) and config.get("auto_map"):
            from transformers import CONFIG_MAPPING

            if kind not in CONFIG_MAPPING:
                raise EncoderError(
                    f"{name} is a model of type {kind!r}, which transformers does not know: it brings code of its own "
                    "(trust_remote_code). Code of a model is never run: use a model without, or a transformers that knows it"
                )


def _library(name: str) -> Any:
    try:
        return require("sentence_transformers", "huggingface", f"run {name}")
    except MissingExtraError:
        raise
    except (ImportError, RuntimeError) as error:
        raise EncoderError(
            f"sentence-transformers cannot be imported ({error}). Often a torchvision that was built for another torch is "
            "the cause: install the one that belongs to it, or uninstall torchvision"
        ) from error


@contextmanager
def explain(problem: str) -> Iterator[None]:
    """Turn what libraries raise on damaged files, which may be anything, into our error."""
    try:
        yield
    except EncoderError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise EncoderError(f"{problem} ({type(error).__name__}: {reason[:300]})") from error
