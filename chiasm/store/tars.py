"""Shards of WebDataset, unpacked into a folder that is then read as any other.

A sample is the files with the same name up to the first dot: `0001.jpg`, `0001.txt`, `0001.cls`, `0001.json`
(https://github.com/webdataset/webdataset). Media keep their names, so they become one item; what `.cls` and `.json` say
becomes its columns. Archives come from anywhere: nothing is written but regular files below the folder, under limits.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

from chiasm.errors import ManifestError
from chiasm.files import finite, is_unicode, open_source, whole_folder
from chiasm.media.kinds import modality_of_name
from chiasm.types import FileOutcome, Outcome

SUFFIXES = (".tar", ".tar.gz", ".tgz")
MOST_MEMBERS = 2_000_000
LARGEST_MEMBER = 2**32  # bytes
LARGEST_NOTE = 2**24  # bytes of a .json, .cls or .txt
ROOM = 2**30  # bytes of the disk that stay free
_BLOCK = 2**20
_DEEPEST = 20  # folders


def is_shard(path: str | Path) -> bool:
    """Return whether a file is named as a tar archive.

    Example:
        >>> is_shard("photos-0001.tar"), is_shard("photos.zip")
        (True, False)
    """
    return str(path).lower().endswith(SUFFIXES)


@dataclass(frozen=True)
class Unpacked:
    """A shard in a folder.

    Attributes:
        folder: where its files are.
        outcomes: of members that were left out.
    """

    folder: Path
    outcomes: tuple[FileOutcome, ...]


def unpack(path: Path, room: Path) -> Unpacked:
    """Unpack a shard into a folder of its own, named by its name, size and time; once.

    Args:
        path: the archive.
        room: the folder that holds the folders of shards.

    Raises:
        ManifestError: it cannot be read as a tar, or the disk would be full.
    """
    try:
        status = path.stat()
        mark = blake2b(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}".encode(), digest_size=4).hexdigest()
        target = room / f"{path.name.partition('.')[0]}-{mark}"
        outcomes: list[FileOutcome] = []
        if not target.is_dir():
            with whole_folder(target) as draft:
                _Shard(path, draft, outcomes).write()
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ManifestError(str(path), f"it cannot be read as a tar archive: {error}") from error
    except OSError as error:
        raise ManifestError(str(path), f"it cannot be unpacked into {room}: {error.strerror or error}") from error
    return Unpacked(target, tuple(outcomes))


class _Shard:
    """One archive on its way into a folder."""

    def __init__(self, path: Path, folder: Path, outcomes: list[FileOutcome]) -> None:
        self._path, self._folder, self._outcomes = path, folder, outcomes
        self._files: dict[str, list[str]] = {}  # key of a sample -> its media
        self._columns: dict[str, dict[str, Any]] = {}  # key -> columns
        self._left = shutil.disk_usage(folder).free - ROOM

    def write(self) -> None:
        """Write the media of all samples, and what is said about them as `metadata.jsonl`."""
        # Read from front to back: an archive that is compressed would be read anew for every step back.
        with open_source(self._path) as source, tarfile.open(fileobj=source, mode="r|*") as archive:
            for number, member in enumerate(archive):
                if number >= MOST_MEMBERS:
                    raise ValueError(f"it has more than {MOST_MEMBERS:,} members; divide it")
                self._take(archive, member)
        for key in self._columns.keys() - self._files.keys():
            self._outcomes.append(FileOutcome(f"{self._path}/{key}", Outcome.NOT_READ, "the sample has no medium"))
        with (self._folder / "metadata.jsonl").open("w", encoding="utf-8") as table:
            for key, files in self._files.items():
                line = {"file_names" if len(files) > 1 else "file_name": files if len(files) > 1 else files[0]}
                own = {name: value for name, value in self._columns.get(key, {}).items() if name not in line}
                table.write(json.dumps(line | own, ensure_ascii=False) + "\n")

    def _take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        if member.isdir():
            return
        steps = [step for step in member.name.split("/") if step not in ("", ".")]
        name = steps[-1] if steps else ""
        key, dot, extension = name.partition(".")
        reason, outcome = "", Outcome.NOT_READ
        if not member.isfile():
            reason = "a link or a device, which is not unpacked"
        elif member.name.startswith("/") or ".." in steps or not is_unicode(member.name) or "\0" in member.name:
            reason = "its name leads out of the archive, or is none"
        elif not key or not dot or len(steps) > _DEEPEST or len(name.encode()) > 200:
            reason = "not of the form SAMPLE.EXTENSION"
        elif member.size > LARGEST_MEMBER:
            reason, outcome = f"it has {member.size:,} bytes; the limit is {LARGEST_MEMBER:,}", Outcome.TOO_LARGE
        if reason:
            self._outcomes.append(FileOutcome(f"{self._path}/{member.name!r:.200}", outcome, reason))
            return
        content = archive.extractfile(member)
        assert content is not None  # it is a regular file
        sample = "/".join([*steps[:-1], key])
        last = extension.lower().rpartition(".")[2]
        if last in ("cls", "json"):
            self._columns.setdefault(sample, {}).update(self._said(member, content, last))
        elif modality_of_name(f"{key}.{last}") is None:
            self._outcomes.append(FileOutcome(f"{self._path}/{member.name}", Outcome.NOT_READ, f"no medium: .{last}"))
        else:
            self._copy(content, Path(*steps[:-1], f"{key}.{extension.lower()}"), sample)

    def _copy(self, content: IO[bytes], place: Path, sample: str) -> None:
        target = self._folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            self._outcomes.append(FileOutcome(f"{self._path}/{place}", Outcome.DUPLICATE, "the name stands twice"))
            return
        with target.open("xb") as file:
            while block := content.read(_BLOCK):
                self._left -= len(block)
                if self._left < 0:
                    raise OSError(None, f"less than {ROOM:,} bytes of the disk would stay free")
                file.write(block)
        self._files.setdefault(sample, []).append(str(place))

    def _said(self, member: tarfile.TarInfo, content: IO[bytes], extension: str) -> Mapping[str, Any]:
        """Return the columns that a sample's `.cls` (its class) or `.json` says."""
        text = content.read(LARGEST_NOTE)
        try:
            if extension == "cls":
                return {"label": text.decode().strip()}
            value = json.loads(text)
            if not isinstance(value, dict):
                raise TypeError(f"expected an object; got {type(value).__name__}")
        except (ValueError, TypeError, RecursionError) as error:
            reason = f"it cannot be read: {error}"
            self._outcomes.append(FileOutcome(f"{self._path}/{member.name}", Outcome.BROKEN, reason))
            return {}
        own = {
            str(name): finite(one) for name, one in value.items() if str(name).strip() and not str(name).startswith("_")
        }
        return {
            name.replace(".", "_").replace("`", "_"): one for name, one in own.items() if name not in ("id", *_MEDIA)
        }


_MEDIA = ("image", "text", "audio", "video", "file_name", "file_names", "key")
