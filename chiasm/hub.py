"""From the id of a model to its folder, and back: the one door to the Hugging Face hub.

A whole snapshot is asked for at once, which fails at the first request that fails. Libraries that load a model by its id
ask for file after file and try each again for a minute; so they get the folder, and no connection.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from chiasm._optional import require
from chiasm.errors import ChiasmError, EncoderError

DESCRIPTIONS = ("*.json", "*.txt", "*.model")  # configuration, tokenizer and processors
SAFE, PICKLED = "*.safetensors", "pytorch_model*.bin"  # transformers reads the latter with weights_only=True
TEMPLATES = "*.jinja"
CARD = "README.md"
LICENCES = "LICEN[CS]E*"


def model_folder(name: str, *, examples: str, revision: str | None = None, card_only: bool = False) -> Path:
    """Return the local folder of a model, downloaded if it is not here yet.

    Files come from the hub's own cache where there is no connection or `HF_HUB_OFFLINE` is set.

    Args:
        name: hub id, or a local folder.
        examples: of what can be named, for messages.
        revision: of a hub id: a branch, a tag or a commit.
        card_only: whether the model's card and licence are enough.

    Raises:
        EncoderError: there is no such model or revision, a folder was named with a revision, or the hub cannot be reached and it is not in the cache.
        MissingExtraError: huggingface_hub is not installed.
    """
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        if revision is not None:
            raise EncoderError(f"{name} is a local folder, which has no revision {revision!r}. Leave revision out")
        return folder.resolve()
    hub = require("huggingface_hub", "huggingface", f"download {name!r}")
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        if card_only:
            return Path(hub.snapshot_download(name, revision=revision, allow_patterns=[CARD, LICENCES, "config.json"]))
        snapshot = _download(hub, name, SAFE, revision)
        if not any(snapshot.rglob(SAFE)):
            snapshot = _download(hub, name, "*" + PICKLED, revision)
        elif any(not any(part.glob(SAFE)) for part in snapshot.glob("*_Dense")):
            snapshot = _download(hub, name, "*_Dense/" + PICKLED, revision)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise EncoderError(
            f"there is no folder {name!r}, and no model of this id on the Hugging Face hub that you may read. Give {examples}"
        ) from error
    except Exception as error:  # connections fail in the words of several libraries
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise EncoderError(
            f"{name!r} is no local folder, and the Hugging Face hub did not give it ({type(error).__name__}: {reason}). "
            "Check the name and the connection, or download the model elsewhere and give its folder"
        ) from error
    return snapshot


def _download(hub: ModuleType, name: str, weights: str, revision: str | None) -> Path:
    wanted = [*DESCRIPTIONS, TEMPLATES, CARD, LICENCES, weights]
    without = ["onnx/*", "openvino/*"]
    return Path(hub.snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=without))


def push_folder(
    folder: Path, name: str, *, private: bool | None = None, token: str | None = None, revision: str | None = None
) -> str:
    """Upload a folder as a repository of a model, in the place of what is there, and return the address of the commit.

    Args:
        folder: with all files of the model.
        name: hub id; the repository is made where there is none.
        private: whether a new one is private. Default: as the account says.
        token: that may write. Default: the one that the hub's own library keeps.
        revision: the branch.

    Raises:
        ChiasmError: the hub refused it, or cannot be reached.
        MissingExtraError: huggingface_hub is not installed.
    """
    hub = require("huggingface_hub", "huggingface", f"push to {name!r}")
    try:
        api = hub.HfApi(token=token)
        api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            revision=revision,
            commit_message="Upload a model of chiasm",
            ignore_patterns=[".lock"],
            delete_patterns=["*"],
        )
    except Exception as error:  # as in `model_folder`
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise ChiasmError(
            f"{name!r} was not pushed ({type(error).__name__}: {reason}). Check the name, the connection and the token (hf auth "
            "login)"
        ) from error
    return str(done.commit_url)
