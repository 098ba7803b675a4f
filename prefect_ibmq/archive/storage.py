"""Where an archive lives: a local directory, or anything that fsspec reaches.

A file appears whole or not at all. Locally it is written beside, flushed to the disk and renamed; on object stores it
is one PUT under its final name; on other remote file systems it is uploaded beside and moved. Nothing locks anything.
Addresses with a password or a query are refused before anybody else sees them: an address ends up in logs, parameters
and results.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from prefect_ibmq.errors import ArchiveError, IBMQError

if TYPE_CHECKING:
    import pyarrow.fs

__all__ = ["Draft", "Entry", "LocalStorage", "RemoteStorage", "Storage", "open_storage", "telling"]

UNFINISHED = ".unfinished"
ABANDONED_AFTER = 86_400  # seconds after which an unfinished file belongs to a process that died
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "r2", "memory"})
READ_ONLY = frozenset({"http", "https", "data", "zip", "tar", "github", "git"})


@dataclass(frozen=True, slots=True)
class Entry:
    """A file: its name below the root, and when it was last written (seconds since 1970, 0 where unknown)."""

    name: str
    modified: float


class Draft(Protocol):
    """A file in the making; discarded unless published."""

    file: IO[bytes]

    def publish(self, name: str, *, replace: bool = False) -> str:
        """Make it appear as `name`, whole, and return its full path or URL.

        A file that is there already stays, unless it is to be replaced.
        """
        ...


class Storage(Protocol):
    """A directory of whole files. Names are relative to its root, with `/` between their parts."""

    @property
    def url(self) -> str:
        """The root: an absolute path, or a URL."""
        ...

    def address(self, name: str) -> str:
        """The full path or URL of a file."""
        ...

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        """A new file; leaving the block without publishing leaves no trace."""
        ...

    def put(self, name: str, content: bytes) -> str:
        """Store a whole file, in place of any that has the name. Returns its full path or URL."""
        ...

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            ArchiveError: There is none, or it cannot be read.
        """
        ...

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file; where there is none, nothing happens."""
        ...

    def entries(self, below: str) -> list[Entry]:
        """All files below a directory, ordered by name; none where there is no such directory."""
        ...

    def names(self, below: str) -> list[str]:
        """What `entries` names, found faster."""
        ...

    def arrow(self) -> pyarrow.fs.FileSystem:
        """The same files for Arrow, rooted here."""
        ...


@contextmanager
def telling(address: str, doing: str) -> Iterator[None]:
    """Turn whatever a file system raises into an `ArchiveError` that names the address, the rule and the way out."""
    try:
        yield
    except IBMQError:
        raise
    except Exception as error:
        rule, hint = _rule(error, doing)
        raise ArchiveError(f"The archive cannot {doing} {address}: {rule}.", hint=hint) from error


_RULES = {
    errno.EACCES: ("the account that runs this may not do that there", "Choose another path, or get the permission."),
    errno.EPERM: ("the account that runs this may not do that there", "Choose another path, or get the permission."),
    errno.EROFS: ("the file system is mounted read-only", "Choose a path on a writable file system."),
    errno.ENOSPC: ("the disk is full", "Make room, then run again: nothing that was measured is lost."),
    errno.EDQUOT: ("the disk quota is used up", "Make room, then run again: nothing that was measured is lost."),
    errno.ENOTDIR: ("a part of the path is a file, not a directory", "Choose another path."),
    errno.EEXIST: ("there is a file of that name, and an archive is a directory", "Choose another path."),
    errno.EISDIR: ("it is a directory", "Choose another path."),
    errno.ENOENT: ("it, or what it lies in, does not exist", "Check the path, or create the bucket first."),
    errno.ENAMETOOLONG: ("the name is too long", "Choose a shorter path."),
}


def _rule(error: Exception, doing: str) -> tuple[str, str]:
    if isinstance(error, ImportError):
        return f"a package is missing ({error})", "For S3: pip install 'prefect-ibmq[s3]'."
    if isinstance(error, OSError):
        number = error.errno or _errno_of(error)
        if number in _RULES:
            return _RULES[number]
    told = str(error).strip().rstrip(".") or type(error).__name__
    if doing == "read" and _is_arrows(error):
        return f"the file is damaged ({told})", "Bring it back from a copy, or move it elsewhere to read the rest."
    return told, "Check the address, and the credentials in the environment or the profile."


def _is_arrows(error: Exception) -> bool:
    """Whether it is what Arrow makes of a Parquet file that it cannot follow; trouble of a file system has a number."""
    import pyarrow as pa

    return isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None)


def _errno_of(error: OSError) -> int | None:
    """The number that remote file systems leave out."""
    if isinstance(error, FileNotFoundError):
        return errno.ENOENT
    return errno.EACCES if isinstance(error, PermissionError) else None


@dataclass
class _LocalDraft:
    storage: LocalStorage
    path: Path
    file: IO[bytes]

    def publish(self, name: str, *, replace: bool = False) -> str:
        target = self.storage.root / name
        with telling(str(target), "write"):
            self.file.flush()
            os.fsync(self.file.fileno())
            if replace or not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(self.path, target)
                _flush_directory(target.parent)
        return str(target)


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class LocalStorage:
    """A directory of this machine, or one mounted on it."""

    root: Path

    @property
    def url(self) -> str:
        return str(self.root)

    def address(self, name: str) -> str:
        return str(self.root / name)

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        path = self.root / UNFINISHED / f"{os.getpid()}-{uuid.uuid4().hex}"
        with telling(self.url, "write to"):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("xb")
        try:
            yield _LocalDraft(self, path, file)
        finally:
            file.close()
            path.unlink(missing_ok=True)

    def put(self, name: str, content: bytes) -> str:
        with self.draft() as draft, telling(self.address(name), "write"):
            draft.file.write(content)
            return draft.publish(name, replace=True)

    def read(self, name: str) -> bytes:
        with telling(self.address(name), "read"):
            return (self.root / name).read_bytes()

    def exists(self, name: str) -> bool:
        return (self.root / name).is_file()

    def remove(self, name: str) -> None:
        with telling(self.address(name), "delete"):
            (self.root / name).unlink(missing_ok=True)

    def entries(self, below: str) -> list[Entry]:
        with telling(self.address(below), "list"):
            found = [_entry(name, file) for name, file in _files(os.path.join(self.root, below), below)]
            return sorted((entry for entry in found if entry is not None), key=lambda entry: entry.name)

    def names(self, below: str) -> list[str]:
        with telling(self.address(below), "list"):
            return sorted(name for name, _ in _files(os.path.join(self.root, below), below))

    def arrow(self) -> pyarrow.fs.FileSystem:
        from pyarrow import fs

        return fs.SubTreeFileSystem(str(self.root), fs.LocalFileSystem())

    def check(self, *, writable: bool) -> None:
        """Fail now rather than after the job was paid for.

        Raises:
            ArchiveError: The directory cannot be read, or not be written.
        """
        if not writable:
            with telling(self.url, "read"):
                os.scandir(self.root).close()
            return
        with telling(self.url, "write to"):
            self.root.mkdir(parents=True, exist_ok=True)
        with self.draft() as draft, telling(self.url, "write to"):
            draft.file.write(b"can this be written?")
            draft.file.flush()
            self._sweep()

    def _sweep(self) -> None:
        for left in (self.root / UNFINISHED).iterdir():
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > ABANDONED_AFTER:
                    left.unlink()


def _files(directory: str, below: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every file below a directory, with its name from there on."""
    try:
        listed = list(os.scandir(directory))
    except FileNotFoundError:
        return
    for found in listed:
        name = f"{below}/{found.name}" if below else found.name
        if found.is_dir():
            yield from _files(found.path, name)
        else:
            yield name, found


def _entry(name: str, file: os.DirEntry[str]) -> Entry | None:
    """None where somebody has removed the file meanwhile."""
    with suppress(FileNotFoundError):
        return Entry(name, file.stat().st_mtime_ns / 1e9)
    return None


@dataclass
class _RemoteDraft:
    storage: RemoteStorage
    file: IO[bytes]

    def publish(self, name: str, *, replace: bool = False) -> str:
        with telling(self.storage.address(name), "write"):
            self.file.flush()
            if replace or not self.storage.exists(name):
                self.storage.upload(self.file.name, name)
        return self.storage.address(name)


@dataclass(frozen=True)
class RemoteStorage:
    """Whatever fsspec reaches under a URL."""

    url: str
    root: str
    protocol: str
    filesystem: Any = field(repr=False)

    def address(self, name: str) -> str:
        return f"{self.url}/{name}"

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        with tempfile.NamedTemporaryFile() as file:
            yield _RemoteDraft(self, file)

    def upload(self, local: str, name: str) -> None:
        """Bring a local file under its name, in one step that readers can see."""
        path = self._path(name)
        if self.protocol in OBJECT_STORES:
            self.filesystem.put_file(local, path)
            return
        beside = self._path(f"{UNFINISHED}/{uuid.uuid4().hex}")
        for needed in (beside, path):
            self.filesystem.makedirs(needed.rsplit("/", 1)[0], exist_ok=True)
        self.filesystem.put_file(local, beside)
        self.filesystem.mv(beside, path)

    def put(self, name: str, content: bytes) -> str:
        with self.draft() as draft, telling(self.address(name), "write"):
            draft.file.write(content)
            return draft.publish(name, replace=True)

    def read(self, name: str) -> bytes:
        with telling(self.address(name), "read"):
            content: bytes = self.filesystem.cat_file(self._path(name))
            return content

    def exists(self, name: str) -> bool:
        with telling(self.address(name), "look for"):
            self.filesystem.invalidate_cache()
            return bool(self.filesystem.isfile(self._path(name)))

    def remove(self, name: str) -> None:
        with telling(self.address(name), "delete"), suppress(FileNotFoundError):
            self.filesystem.rm_file(self._path(name))

    def entries(self, below: str) -> list[Entry]:
        with telling(self.address(below), "list"):
            self.filesystem.invalidate_cache()
            try:
                found: Mapping[str, Mapping[str, Any]] = self.filesystem.find(self._path(below), detail=True)
            except FileNotFoundError:
                return []
            skip = len(self.root) + 1
            return [Entry(path[skip:], _modified(info)) for path, info in sorted(found.items())]

    def names(self, below: str) -> list[str]:
        return [entry.name for entry in self.entries(below)]

    def arrow(self) -> pyarrow.fs.FileSystem:
        from pyarrow import fs

        return fs.SubTreeFileSystem(self.root, fs.PyFileSystem(fs.FSSpecHandler(self.filesystem)))

    def check(self, *, writable: bool) -> None:
        """Fail now rather than after the job was paid for.

        Raises:
            ArchiveError: The address cannot be read, or not be written.
        """
        if not writable:
            with telling(self.url, "read"):
                self.filesystem.ls(self.root)
            return
        name = ".write-check"
        self.put(name, b"can this be written?")
        # Whoever may not delete, or comes second, can still write.
        with telling(self.address(name), "delete"), suppress(PermissionError, FileNotFoundError):
            self.filesystem.rm_file(self._path(name))


def _modified(info: Mapping[str, Any]) -> float:
    found = next(
        (info[key] for key in ("LastModified", "last_modified", "mtime", "updated", "created") if info.get(key)), 0
    )
    if isinstance(found, str):
        with suppress(ValueError):
            found = datetime.fromisoformat(found)
    if isinstance(found, datetime):
        return found.timestamp()
    return float(found) if isinstance(found, int | float) else 0.0


def open_storage(
    address: str | os.PathLike[str], *, writable: bool = True, options: Mapping[str, Any] | None = None
) -> Storage:
    """Open a directory or URL, and prove at once that it can be used.

    Args:
        address: A path (`~` is expanded), `file://…`, or a URL of any protocol that fsspec knows, such as `s3://…`.
        writable: Whether it must be writable; a local directory is then made.
        options: What fsspec's file system needs to know beyond its environment, credentials among it.

    Raises:
        ArchiveError: The address cannot be used, with the rule and the way out.
    """
    text = os.fspath(address)
    if not text.strip() or "\0" in text:
        raise ArchiveError(f"{text!r} is no archive path.", hint="Give a directory, or a URL such as s3://bucket/path.")
    storage = _remote(text, options) if _is_remote(text) else LocalStorage(_local_root(text))
    storage.check(writable=writable)
    return storage


def _is_remote(text: str) -> bool:
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme not in ("file", "local")


def _local_root(text: str) -> Path:
    if "://" in text:
        _, _, rest = text.partition("://")
        text = unquote(rest.removeprefix("localhost") if rest.startswith("localhost/") else rest)
    with telling(text, "use"):
        return Path(os.path.abspath(Path(text).expanduser()))


def _remote(text: str, options: Mapping[str, Any] | None) -> RemoteStorage:
    shown = _refuse_secrets(text).rstrip("/")
    protocol = shown.partition("://")[0].lower()
    if protocol in READ_ONLY:
        raise ArchiveError(
            f"{shown} cannot be written to.", hint="Give a directory, or a URL such as s3://bucket/path."
        )
    with telling(shown, "use"):
        import fsspec

        # A cached instance remembers yesterday's environment, cached listings hide what others have written since.
        fresh = {"use_listings_cache": False, "skip_instance_cache": True, **(options or {})}
        filesystem, root = fsspec.core.url_to_fs(text, **fresh)
    return RemoteStorage(shown, str(root).rstrip("/"), protocol, filesystem)


def _refuse_secrets(text: str) -> str:
    """The address itself if it holds nothing secret."""
    scheme, _, rest = text.partition("://")
    # An AWS secret may hold slashes, so a password can reach beyond what URL grammar calls the host.
    password = re.match(r"[^/@]*:[^/@]*@", rest) or re.match(r"[^/:@]*:(?!\d+(/|$))[^@]*@", rest)
    if not password and not urlsplit(text).query:
        return text
    where = rest.rsplit("@", 1)[-1].partition("?")[0] if password else rest.partition("?")[0]
    raise ArchiveError(
        f"The archive address {scheme}://***{'@' if password else ''}{where} holds credentials or a query; "
        "addresses are stored and logged, so they may not.",
        hint="Leave them out and set the environment variables or the profile of that storage.",
    )
