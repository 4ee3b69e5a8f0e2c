"""Objects in a Google Cloud Storage bucket: what `ddx.runtime.storage` and `ddx.runtime.lock` need of them.

An object appears whole or not at all, has a generation that every write changes, and is never renamed. Folders do not
exist: they are what names have in common. What fails for want of a network or a server is tried again for PATIENCE
seconds; then it is a StorageError, as is what a user can mend: no such bucket, no permission, no credentials.
"""

import concurrent.futures
import contextlib
import functools
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from ddx.runtime.errors import ConfigError, StorageError, telling_line

PATIENCE = 120.0
"""Seconds for which a request is tried again."""

_AT_ONCE = 8
_CHUNK = 32 * 2**20  # bytes in a request of a larger upload, of which only a lost one is sent again

T = TypeVar("T")


class Object(NamedTuple):
    """What a listing says of an object."""

    name: str  # in the bucket
    size: int


class Address(NamedTuple):
    """gs://bucket/name, where a folder's name may be empty."""

    bucket: str
    name: str

    def __str__(self) -> str:
        return f"gs://{self.bucket}/{self.name}"


def address(path: pathlib.PurePath) -> Address:
    """The bucket of a path, and the name in it."""
    match = re.fullmatch(r"gs://([^/]+)/?(.*)", str(path))
    assert match, path
    return Address(match[1], match[2].rstrip("/"))


def get(at: Address, file: pathlib.Path) -> None:
    """Download an object to a file.

    Raises:
      FileNotFoundError: there is no such object.
    """
    with _told(at, "read"):
        _blob(at).download_to_filename(str(file), retry=_retry(), timeout=_TIMEOUT)


def get_bytes(at: Address, most: int | None = None) -> bytes:
    """The content of an object, or its first bytes.

    Raises:
      FileNotFoundError: there is no such object.
    """
    with _told(at, "read"):
        end = None if most is None else most - 1
        content: bytes = _blob(at).download_as_bytes(end=end, retry=_retry(), timeout=_TIMEOUT)
        return content


def put(at: Address, file: pathlib.Path) -> None:
    """Upload a file as an object, in place of the one that is there."""
    with _told(at, "write"):
        chunk = _CHUNK if file.stat().st_size > _CHUNK else None
        blob = _bucket(at.bucket).blob(at.name, chunk_size=chunk)
        blob.upload_from_filename(str(file), retry=_retry(), timeout=_TIMEOUT)


def put_if(at: Address, content: str, generation: int) -> int | None:
    """Write an object if its generation is still this one, 0 for none: the new generation, or None if it is not."""
    from google.api_core.exceptions import PreconditionFailed

    blob = _blob(at)
    with _told(at, "write"):
        try:
            blob.upload_from_string(content, if_generation_match=generation, retry=_retry(), timeout=_TIMEOUT)
        except PreconditionFailed:
            # It may be our own write, whose answer was lost and which was tried again.
            found = blob.bucket.get_blob(at.name, retry=_retry(), timeout=_TIMEOUT)
            if found is None or found.download_as_bytes(retry=_retry(), timeout=_TIMEOUT) != content.encode():
                return None
            return int(found.generation)
    return int(blob.generation)


def generation(at: Address) -> int:
    """The generation of an object, 0 if there is none."""
    with _told(at, "read"):
        found = _bucket(at.bucket).get_blob(at.name, retry=_retry(), timeout=_TIMEOUT)
    return 0 if found is None else int(found.generation)


def size(at: Address) -> int | None:
    """The bytes in an object, or None if there is none."""
    with _told(at, "read"):
        found = _bucket(at.bucket).get_blob(at.name, retry=_retry(), timeout=_TIMEOUT) if at.name else None
    return None if found is None else int(found.size)


def below(at: Address, most: int | None = None) -> list[Object]:
    """All objects in a folder and the folders in it, or the first of them."""
    with _told(at, "list"):
        found = _client().list_blobs(
            at.bucket, prefix=_prefix(at), max_results=most, retry=_retry(), timeout=_TIMEOUT, fields=_FIELDS
        )
        return [Object(blob.name, int(blob.size)) for blob in found if not blob.name.endswith("/")]


def names(at: Address) -> list[str]:
    """The names of what is in a folder itself: objects and folders."""
    prefix = _prefix(at)
    with _told(at, "list"):
        found = _client().list_blobs(at.bucket, prefix=prefix, delimiter="/", retry=_retry(), timeout=_TIMEOUT)
        objects = [blob.name for blob in found]  # the folders are known when this is done
        return [name for name in (n[len(prefix) :].rstrip("/") for n in (*objects, *found.prefixes)) if name]


def remove(at: Address, if_generation: int | None = None) -> None:
    """Remove an object, if there is one; where a generation is given, only that one."""
    from google.api_core.exceptions import NotFound, PreconditionFailed

    with _told(at, "remove"), contextlib.suppress(NotFound, PreconditionFailed):
        _blob(at).delete(if_generation_match=if_generation, retry=_retry(), timeout=_TIMEOUT)


def copy(at: Address, to: Address) -> None:
    """Copy an object within a bucket, or into another one."""
    with _told(at, "copy"):
        bucket = _bucket(at.bucket)
        bucket.copy_blob(bucket.blob(at.name), _bucket(to.bucket), to.name, retry=_retry(), timeout=_TIMEOUT)


def all_at_once(work: Callable[..., None], *arguments: list[Any]) -> None:
    """Do some work of these for many objects, several at a time; the first error ends it."""
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="ddx-bucket") as pool:
        for _ in pool.map(work, *arguments):
            pass


_TIMEOUT = 60.0  # seconds without an answer to one request
_FIELDS = "items(name,size),nextPageToken"


@functools.cache
def _client() -> Any:
    try:
        from google.auth.exceptions import DefaultCredentialsError
        from google.cloud import storage
    except ImportError:
        raise ConfigError(
            "gs:// paths need the extra gcs. Install it with pip install 'ddx[gcs]', or name a local path"
        ) from None
    try:
        return storage.Client(project="ddx")  # of the credentials; no request here is about a project
    except DefaultCredentialsError:
        raise StorageError(
            "gs:// paths need credentials, and none were found. Run gcloud auth application-default login, or set"
            " GOOGLE_APPLICATION_CREDENTIALS"
        ) from None


def _bucket(name: str) -> Any:
    return _client().bucket(name)


def _blob(at: Address) -> Any:
    return _bucket(at.bucket).blob(at.name)


def _prefix(at: Address) -> str:
    return f"{at.name}/" if at.name else ""


def _retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(PATIENCE).with_delay(initial=0.5, maximum=15.0)


@contextlib.contextmanager
def _told(at: Address, what: str) -> Iterator[None]:
    """Errors of Google's libraries as ours, in one line each."""
    _client()  # tells what is not installed, before anything is imported for the errors
    from google.api_core import exceptions as api
    from google.auth.exceptions import GoogleAuthError
    from requests import RequestException

    try:
        yield
    except api.NotFound:
        if not _has(at.bucket):
            raise StorageError(f"there is no bucket gs://{at.bucket}. Create it, or name another") from None
        raise FileNotFoundError(2, "no such object", str(at)) from None
    except (api.Forbidden, api.Unauthorized) as error:
        raise StorageError(
            f"cannot {what} {at}: permission denied ({_reason(error)}). Give your account the role Storage Object User"
            " on the bucket, or log in with gcloud auth application-default login"
        ) from error
    except GoogleAuthError as error:
        raise StorageError(
            f"cannot {what} {at}: {telling_line(error)}. Log in with gcloud auth application-default login"
        ) from error
    except (api.GoogleAPIError, RequestException, ConnectionError, TimeoutError) as error:
        raise StorageError(
            f"cannot {what} {at}, tried for {PATIENCE:.0f} s: {_reason(error)}. Fix that, and run the same command"
            " again; it resumes"
        ) from error


def _has(bucket: str) -> bool:
    """Whether there is such a bucket, as far as one can tell who may not ask for it."""
    from google.api_core.exceptions import GoogleAPIError, NotFound

    try:
        next(iter(_client().list_blobs(bucket, max_results=1, retry=_retry(), timeout=_TIMEOUT)), None)
    except NotFound:
        return False
    except GoogleAPIError:
        pass
    return True


def _reason(error: BaseException) -> str:
    """The innermost reason of an error that names others, without addresses and objects of Python."""
    text = telling_line(error)
    inner = re.findall(r"\[Errno \d+\] ([^\"')]+)|(?<=: )([^:{}]+)$", text)
    return (inner[-1][0] or inner[-1][1] or text).strip().rstrip(".") if inner else text
