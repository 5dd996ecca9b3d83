"""Who asks: API keys, known by their hashes alone, from the config, the environment and a file that may change."""

import hashlib
import hmac
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from fastapi import Request
from limits import RateLimitItem, parse
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string
from pydantic import TypeAdapter, ValidationError

from nigaoe.core.errors import ConfigError
from nigaoe.serve.config import Access, KeyConfig
from nigaoe.serve.http.problems import Problem

log = logging.getLogger(__name__)

KEYS_VARIABLE = "NIGAOE_API_KEYS"
_KEYS = TypeAdapter(list[KeyConfig])
_LOOK_AGAIN_S = 1.0


@dataclass(frozen=True)
class Caller:
    """Whoever a request is from."""

    name: str
    """For logs and metrics."""
    priority: int
    may_manage: bool
    rate: str | None = None


ANYBODY = Caller("anonymous", 0, may_manage=True)
"""Where there are no keys."""
UNKNOWN = Caller("unknown", 0, may_manage=False)
"""Whoever has not said who they are, on routes that are free."""


def require_manager(request: Request) -> None:
    """Refuse callers who may not change what others use.

    Raises:
        Problem: 403.
    """
    caller: Caller = request.state.caller
    if not caller.may_manage:
        message = f"key {caller.name!r} may not manage adapters; ask for a key with may_manage"
        raise Problem(403, "insufficient_permissions", message)


class Keys:
    """The keys that are valid now."""

    def __init__(
        self,
        access: Access,
        environment: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read all keys.

        Raises:
            ConfigError: The file or the environment holds something else.
        """
        environment = os.environ if environment is None else environment
        self._fixed = [*access.keys, *_from_environment(environment.get(KEYS_VARIABLE, ""))]
        self._path, self._clock = access.keys_file, clock
        self._from_file: list[KeyConfig] = [] if self._path is None else _from_file(self._path)
        self._version = self._file_version()
        self._looked_at = clock()

    @property
    def are_needed(self) -> bool:
        """Whether somebody without a key is refused; a file that is empty lets nobody in."""
        return bool(self._fixed) or self._path is not None

    def caller(self, authorization: str | None) -> Caller:
        """Whose key a header holds.

        Raises:
            Problem: 401.
        """
        if not self.are_needed:
            return ANYBODY
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise _unauthorised("no API key was sent; send it as `Authorization: Bearer KEY`")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).hexdigest()
        found: KeyConfig | None = None
        # All are looked at, so that the time tells nothing.
        for known in [*self._fixed, *self._current_file()]:
            if hmac.compare_digest(known.sha256, digest):
                found = known
        if found is None:
            raise _unauthorised("the API key is not valid here; send one that is")
        return Caller(found.name, found.priority, found.may_manage, found.rate)

    def _current_file(self) -> list[KeyConfig]:
        now = self._clock()
        if self._path is None or now - self._looked_at < _LOOK_AGAIN_S:
            return self._from_file
        self._looked_at = now
        version = self._file_version()
        if version != self._version:
            try:
                self._from_file, self._version = _from_file(self._path), version
                log.info("keys were read again", extra={"keys": len(self._from_file)})
            except ConfigError as error:
                # A half-written file must not lock everybody out; it is read again when looked at next.
                log.error("keys were not read again: %s", error)
        return self._from_file

    def _file_version(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


class Rates:
    """How often each caller may ask."""

    def __init__(self, access: Access) -> None:
        """Find where counts are kept.

        Raises:
            ConfigError: A rate, or the storage of counts, is none.
        """
        self._default = None if access.rate is None else _rate(access.rate)
        try:
            # Errors of whatever is behind it come as one kind.
            storage = storage_from_string(f"async+{access.rate_storage}", wrap_exceptions=True)
        except ConfigurationError as error:
            raise ConfigError(
                f"access.rate_storage {access.rate_storage!r} cannot be used ({error}); try memory://"
            ) from None
        self._limiter = MovingWindowRateLimiter(storage)

    async def require(self, caller: Caller, address: str) -> None:
        """Count a request.

        Raises:
            Problem: 429, with the seconds after which there is room again.
        """
        rate = self._default if caller.rate is None else _rate(caller.rate)
        if rate is None:
            return
        who = f"address {address}" if caller is ANYBODY else f"key {caller.name}"
        try:
            if await self._limiter.hit(rate, who):
                return
            window = await self._limiter.get_window_stats(rate, who)
        except StorageError as error:
            # A counter that is lost must not stop the server.
            log.error("requests cannot be counted: %s", error)
            return
        wait_s = max(1, round(window.reset_time - time.time()))
        message = f"more than {rate} were asked for; try again in {wait_s} s"
        raise Problem(429, "rate_limit_exceeded", message, retry_after_s=wait_s)


def _rate(text: str) -> RateLimitItem:
    try:
        return parse(text)
    except ValueError:
        raise ConfigError(f"rate {text!r} is not of the form '60/minute'; mend it") from None


def _from_environment(text: str) -> list[KeyConfig]:
    pairs = [pair.strip().partition(":") for pair in text.split(",") if pair.strip()]
    return _checked([{"name": name, "sha256": digest} for name, _, digest in pairs], KEYS_VARIABLE)


def _from_file(path: Path) -> list[KeyConfig]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"access.keys_file {str(path)!r} cannot be read ({error.strerror}); mend the path") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigError(f"access.keys_file {str(path)!r} is not valid YAML; mend its syntax") from None
    return _checked([] if values is None else values, f"access.keys_file {str(path)!r}")


def _checked(values: object, where: str) -> list[KeyConfig]:
    try:
        keys = _KEYS.validate_python(values)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        at = ".".join(str(part) for part in first["loc"])
        message = f"{where} does not hold keys ({at or 'it'}: {first['msg']}); `nigaoe serve-key` makes one"
        raise ConfigError(message) from None
    for key in keys:
        if key.rate is not None:
            _rate(key.rate)
    return keys


def _unauthorised(message: str) -> Problem:
    return Problem(401, "invalid_api_key", message, headers={"WWW-Authenticate": "Bearer"})
