"""Many files by one address: `shards/{000..099}.tar`, `{train,test}.parquet`, `**/*.parquet`."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from nigaoe.core import storage
from nigaoe.core.errors import DataError
from nigaoe.core.storage import FileStat
from nigaoe.core.stores import Location, locate

BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
STARS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}


def is_pattern(uri: str) -> bool:
    """Whether an address means several files by braces or stars."""
    location = locate(uri)
    if "*" not in location.path and not BRACES.search(location.path):
        return False
    # A folder may be named like a pattern; stores are not asked.
    return bool(location.store) or not storage.exists(uri)


def pattern_root(uri: str) -> str:
    """The folder before the first brace or star."""
    location = locate(uri)
    return replace(location, path=_root(location)).uri


def matching_files(uri: str) -> list[FileStat]:
    """The files that an address means: in its own order by braces, by name by stars.

    Raises:
        DataError: One that braces name is missing, or stars match none.
    """
    location = locate(uri)
    root = _root(location)
    paths = [path[len(root) + 1 :] for path in expand_braces(location.path)]
    if "*" not in location.path:
        with ThreadPoolExecutor(storage.THREADS) as pool:
            return list(pool.map(lambda path: _file(location, root, path), paths))
    patterns = [re.compile(_expression(path)) for path in paths]
    listed = storage.list_files(pattern_root(uri))
    files = [file for file in listed if any(pattern.fullmatch(file.name) for pattern in patterns)]
    if not files:
        raise DataError(f"no file matches {uri!r}; see what is in {pattern_root(uri)!r}")
    return files


def expand_braces(text: str) -> list[str]:
    """All texts that braces stand for, as a shell writes them: `{08..10}` is 08, 09, 10."""
    found = BRACES.search(text)
    if found is None:
        return [text]
    first, last, words = found.groups()
    if words is not None:
        choices = words.split(",")
    else:
        digits = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
        step = 1 if int(first) <= int(last) else -1
        choices = [f"{n:0{digits}d}" for n in range(int(first), int(last) + step, step)]
    return [text[: found.start()] + choice + rest for choice in choices for rest in expand_braces(text[found.end() :])]


def _root(location: Location) -> str:
    magic = min(at for at in map(location.path.find, "{*") if at >= 0)
    return location.path[:magic].rpartition("/")[0]


def _file(location: Location, root: str, path: str) -> FileStat:
    uri = replace(location, path=f"{root}/{path}").uri
    file = storage.stat(uri)
    if file is None:
        raise DataError(f"{uri!r} is a folder where a file was expected; end the address with the names of its files")
    return file._replace(name=path)


def _expression(pattern: str) -> str:
    return "".join(STARS.get(piece, re.escape(piece)) for piece in re.split(r"(\*\*/|\*\*|\*)", pattern))
