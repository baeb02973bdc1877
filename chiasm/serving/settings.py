"""Limits of the server, all in one place so that each can be read and tested."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from chiasm.errors import ChiasmError
from chiasm.media import Limits

UPLOADS = Limits(
    max_bytes=64 * 2**20,
    max_bytes_whole=32 * 2**20,
    max_pixels=40_000_000,
    max_frame_pixels=40_000_000,
    max_seconds=600.0,
    max_characters=100_000,
)
"""Limits on uploaded files: enough for what a phone records, not for a film."""


PREVIEWS = Limits(max_bytes=2 * 2**30, max_bytes_whole=256 * 2**20, max_pixels=120_000_000)
"""Limits on files of which previews are made: what cameras make."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits of one server process. Times are in seconds, sizes in bytes.

    Raises:
        ChiasmError: a bound is not above 0.
    """

    host_names: tuple[str, ...] = ("localhost",)
    """Names that the Host header may hold, beside IP addresses. Another name is refused: a page of that name may have
    been pointed at this machine to read from it (DNS rebinding)."""

    max_body: int = 64 * 2**20
    """Bytes of a request's body."""

    max_json: int = 16 * 2**20
    """Bytes of a body of JSON, which is held in memory; files sent by multipart lie on disk."""

    max_held: int = 512 * 2**20
    """Bytes of all bodies and opened media at a time."""

    keep_free: int = 2**30
    """Bytes of the disk that files which are added leave free: a search table and a log have to be written, too."""

    uploads: Limits = UPLOADS
    """Of each file that is sent."""

    max_pixels: int = 120_000_000
    """Pixels of all images of one request, as they are decoded: photos that need not be decoded in full count as what is."""

    max_requests: int = 64
    """Requests that are worked on or wait at a time. Of more, the rest is answered 429."""

    max_connections: int = 512
    """Open connections at a time. Of more, those are dropped that have been without a request for the longest."""

    max_media: int = 256
    """Media that wait for an encoder at a time. A request that would make them more is answered 429."""

    batch: int = 32
    """Media that are embedded together."""

    batch_wait: float = 0.002
    """How long the first of a batch waits for others."""

    readers: int = 2
    """Threads that open files and read rows."""

    head_seconds: float = 10.0
    """How long a client may take to send the head of a request, from its first byte or the connection's beginning."""

    body_seconds: float = 30.0
    """How long it may take to send the body."""

    write_seconds: float = 30.0
    """How long it may leave a full buffer unread."""

    answer_seconds: float = 60.0
    """How long an answer may take once the request is there, or the next part of one that is streamed."""

    stop_seconds: int = 30
    """How long running requests may take to end when the server is told to stop."""

    close_seconds: int = 5
    """How long what cannot be stopped may go on after that. Then the process ends, whatever runs."""

    rate: float | None = 50.0
    """Requests a second of one key, or of one address where no key is asked for; None: as many as it likes."""

    burst: float = 400.0
    """Requests at once before `rate` holds."""

    previews: Limits = PREVIEWS
    """Of each file of which a preview is made."""

    kept_uploads: int = 2**30
    """Bytes of the files of queries that are kept, so that the address of a search with a file can be sent to others."""

    max_open: int = 4
    """Collections that are open at a time, each with its encoders. Another one takes the place of the one that was asked for
    the longest ago."""

    job_seconds: float = 4 * 3600.0
    """How long `align` or `fit` may take where it is started on the page."""

    refresh_seconds: float = 1.0
    """How old what a search sees may be while `chiasm add` writes."""

    roots: tuple[Path, ...] = ()
    """Folders whose files are given away, beside what the server was sent. None of them: those that the collection records."""

    query_log: Path | None = None
    """A file (SQLite) for the texts of queries. None: they are kept nowhere."""

    def __post_init__(self) -> None:
        for name in (
            *(
                "max_body",
                "max_json",
                "max_held",
                "max_pixels",
                "max_requests",
                "max_media",
                "max_connections",
                "batch",
                "readers",
                "max_open",
            ),
            *(
                "head_seconds",
                "body_seconds",
                "write_seconds",
                "answer_seconds",
                "stop_seconds",
                "close_seconds",
                "job_seconds",
                "burst",
            ),
        ):
            if not getattr(self, name) > 0:
                raise ChiasmError(f"{name} has to be above 0; got {getattr(self, name)}")
        if self.rate is not None and not self.rate > 0:
            raise ChiasmError(f"rate has to be above 0, or None for no limit; got {self.rate}")
