"""Where files are: folders of this machine or of NFS, and buckets of S3 or of Google's storage."""

import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from nigaoe.core.errors import DataError

STORES = {"s3": "s3", "gs": "gs", "gcs": "gs"}
OPTIONS = ("anonymous", "endpoint_override", "region", "scheme")
"""What may follow a `?` behind an address, in the words of Arrow."""
CONNECT_S = 5
SILENCE_S = 10
"""After so long without a byte, a request counts as failed."""
ATTEMPTS = 3


class UnusableFile(DataError):
    """This file is the trouble, not the place where it is kept: it is no file, or may not be read."""


class MissingFile(UnusableFile):
    """There is no such file, in a folder or bucket that can be reached."""


@dataclass(frozen=True)
class Location:
    """A file or a folder."""

    store: str
    """`s3` or `gs`; empty for this machine's own file system."""
    path: str
    """Absolute, or `bucket/key`."""
    options: str = ""
    """As they are written behind the `?`."""

    @property
    def uri(self) -> str:
        """The address again, the same from every folder."""
        return self.path if not self.store else f"{self.store}://{self.path}" + (self.options and f"?{self.options}")

    @property
    def bucket(self) -> str:
        """The first part of the path."""
        return self.path.partition("/")[0]

    def child(self, name: str) -> "Location":
        """What a path relative to this folder leads to."""
        path = f"{self.path.rstrip('/')}/{name}"
        if name.startswith(("./", "../")) or "/./" in name or "/../" in name:
            path = posixpath.normpath(path)
        return replace(self, path=path)


def locate(uri: str) -> Location:
    """Take an address apart.

    Raises:
        DataError: It leads to no place that can be read, or holds a secret.
    """
    # Not kept, for the working folder may change.
    return _in_store(uri) if "://" in uri else Location("", os.path.abspath(uri))


@lru_cache(maxsize=4096)
def _in_store(uri: str) -> Location:
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        return Location("", os.path.abspath(unquote(rest)))
    if scheme not in STORES:
        raise DataError(
            f"{uri!r} is neither a path nor an address like s3://bucket/folder or gs://bucket/folder; "
            f"download what it names first"
        )
    path, _, options = rest.partition("?")
    if "@" in path.partition("/")[0]:
        raise DataError(
            f"an address of bucket {path.partition('/')[0].rpartition('@')[2]!r} holds a key; "
            f"put keys into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    unknown = [name for name, _ in parse_qsl(options, keep_blank_values=True) if name not in OPTIONS]
    if unknown:
        raise DataError(f"address {uri!r} has the option {unknown[0]!r}; known ones are {', '.join(OPTIONS)}")
    return Location(STORES[scheme], path.strip("/"), options)


def filesystem_of(location: Location) -> Any:
    """The `pyarrow.fs.FileSystem` of a bucket.

    Raises:
        DataError: The bucket's region cannot be found out.
    """
    if location.store == "gs":
        return _gs(location.options)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    with in_a_sentence(location, "read"):
        return _s3(location.bucket, location.options, endpoint, region)


@lru_cache(maxsize=64)
def _s3(bucket: str, options: str, endpoint: str | None, region: str | None) -> Any:
    # Here, so that whoever reads local files only does not load Arrow.
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

    asked = {"endpoint_override": endpoint or "", "region": region or "", **dict(parse_qsl(options))}
    scheme, host = _scheme_and_host(asked)
    if not asked["region"]:
        # Stores of other makers have one region and seldom a name for it.
        asked["region"] = "us-east-1" if host else resolve_s3_region(bucket)
    return S3FileSystem(
        region=asked["region"],
        endpoint_override=host or None,
        scheme=scheme,
        anonymous=asked.get("anonymous", "") in ("true", "1"),
        connect_timeout=CONNECT_S,
        request_timeout=SILENCE_S,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


@lru_cache(maxsize=64)
def _gs(options: str) -> Any:
    from pyarrow.fs import GcsFileSystem

    asked = dict(parse_qsl(options))
    scheme, host = _scheme_and_host(asked)
    return GcsFileSystem(
        endpoint_override=host or None,
        scheme=scheme,
        anonymous=asked.get("anonymous", "") in ("true", "1"),
        retry_time_limit=timedelta(seconds=SILENCE_S),
    )


def _scheme_and_host(options: dict[str, str]) -> tuple[str, str]:
    endpoint = options.get("endpoint_override", "")
    if "://" in endpoint:
        parts = urlsplit(endpoint)
        return parts.scheme, parts.netloc
    return options.get("scheme", "https"), endpoint


@contextmanager
def in_a_sentence(location: Location, doing: str) -> Iterator[None]:
    """Say in one sentence what went wrong with a file or folder; `doing`: `read` or `written`."""
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise _said(location, error, doing) from None


def _said(location: Location, error: Exception, doing: str) -> DataError:
    uri = location.uri
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return MissingFile(f"{uri!r} does not exist; mend the path")
    if not location.store:
        if isinstance(error, PermissionError):
            return UnusableFile(f"{uri!r} may not be {doing}; change its permissions")
        if isinstance(error, IsADirectoryError):
            return UnusableFile(f"{uri!r} is a folder where a file was expected; name a file in it")
        return DataError(f"{uri!r} cannot be {doing} ({_cause(error)}); look after its disk")
    text = str(error)
    where = f" at {text_of_endpoint(location)}" if text_of_endpoint(location) else ""
    if "NO_SUCH_BUCKET" in text or "bucket does not exist" in text:
        return DataError(f"bucket {location.bucket!r} of {uri!r} does not exist{where}; mend its name or the endpoint")
    if any(word in text for word in ("NETWORK_CONNECTION", "curlCode", "CURL error", "UNAVAILABLE")) and (
        "access token" not in text
    ):
        return DataError(f"{uri!r} cannot be reached{where} ({_cause(error)}); see to the endpoint and the network")
    if any(word in text for word in _REFUSALS):
        keys = (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            if location.store == "s3"
            else "set GOOGLE_APPLICATION_CREDENTIALS"
        )
        return DataError(f"{uri!r} may not be {doing} with the keys that were found, if any; {keys}")
    if "HTTP status 301" in text or "PERMANENT_REDIRECT" in text:
        return DataError(f"bucket {location.bucket!r} of {uri!r} is in another region; set AWS_REGION to its own")
    return DataError(f"{uri!r} cannot be {doing} ({_cause(error)}); see to the bucket")


_REFUSALS = (
    "ACCESS_DENIED",
    "ExpiredToken",
    "INVALID_ACCESS_KEY_ID",
    "INVALID_CLIENT_TOKEN_ID",
    "PERMISSION_DENIED",
    "SIGNATURE_DOES_NOT_MATCH",
    "HTTP status 401",
    "HTTP status 403",
    "UNAUTHENTICATED",
    "access token",
)


def text_of_endpoint(location: Location) -> str:
    """The endpoint that somebody named for a bucket; empty where nobody did."""
    named = dict(parse_qsl(location.options)).get("endpoint_override")
    if location.store == "s3":
        named = named or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return named or ""


def _cause(error: Exception) -> str:
    """The last clause of the first line: Arrow says first what it was doing, which the sentence says already."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = (str(error).splitlines() or [type(error).__name__])[0]
    # Without words of its own there is a code at least: `UNKNOWN (HTTP status 500) during HeadObject operation`.
    _, _, code = line.partition("AWS Error ")
    for start in ("Details: ", "last message of ", "operation: ", "]="):
        line = line.rpartition(start)[2]
    line = line.partition(" error_info=")[0].partition(" (Request ID")[0].strip(" .})")
    return (
        line
        if line and line != "No response body"
        else code.removesuffix("No response body.").rstrip(" :") or "no reason given"
    )[:200]
