"""Names of stored objects: a kind and 128 random bits, so that who has a name was given it."""

import re
import secrets

from nigaoe.core.errors import NigaoeError

_ID = re.compile(r"([a-z]+)_([0-9a-f]{32})")


class UnknownObject(NigaoeError):
    """There is no such object, or no more."""


def new_id(kind: str) -> str:
    """As `emb_0123...`."""
    return f"{kind}_{secrets.token_hex(16)}"


def path_of(name: str, kinds: tuple[str, ...]) -> str:
    """Where an object lies below the folder of its kind: nothing that a client wrote gets into a path unchecked.

    Raises:
        UnknownObject: It is no name of these kinds.
    """
    match = _ID.fullmatch(name)
    if match is None or match[1] not in kinds:
        raise unknown(name, kinds)
    # Folders of a bounded size, for what is kept is listed.
    return f"{match[2][:2]}/{name}"


def unknown(name: str, kinds: tuple[str, ...]) -> UnknownObject:
    """What is said of a name that leads nowhere."""
    wanted = " or ".join(f"{kind}_..." for kind in kinds)
    return UnknownObject(f"{name[:60]!r} is not here, or no more; give a name as it was answered, {wanted}")
