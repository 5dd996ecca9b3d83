"""Names of pictures as datasets write them, and the files they mean."""

import posixpath

from nigaoe.core import storage
from nigaoe.train.records.record import Picture

PICTURE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "jfif", "avif")
"""Of two files that differ in this only, the first one counts."""


def picture_rank(extension: str) -> int:
    """Place among the extensions of pictures; past the last of them for any other."""
    return PICTURE_EXTENSIONS.index(extension) if extension in PICTURE_EXTENSIONS else len(PICTURE_EXTENSIONS)


def is_picture_name(name: str) -> bool:
    """Whether a file is a picture by its extension."""
    return name.rpartition(".")[2].lower() in PICTURE_EXTENSIONS


class PictureNames:
    """Pictures of one folder by name. Whether they exist is left to whoever reads them: asking takes a while each."""

    def __init__(self, folder: str) -> None:
        self.folder = storage.absolute(folder)
        self._listed: dict[str, dict[str, str]] = {}

    def picture(self, name: str) -> Picture:
        """The picture of a name: a path in the folder, one from the root, an address, or an ID without extension.

        Raises:
            DataError: The name is an address of the web, or a folder may not be listed for an ID.
        """
        return Picture(storage.join(self.folder, name if is_picture_name(name) else self._completed(name)))

    def _completed(self, name: str) -> str:
        folder, base = posixpath.split(name)
        if folder not in self._listed:
            self._listed[folder] = _by_stem(storage.list_names(storage.join(self.folder, folder)))
        return posixpath.join(folder, self._listed[folder].get(base, base))


def _by_stem(names: list[str]) -> dict[str, str]:
    """Files by their names, with and without the extension of a picture."""
    pictures = [name for name in names if is_picture_name(name)]
    pictures.sort(key=lambda name: (picture_rank(posixpath.splitext(name)[1][1:].lower()), name), reverse=True)
    return {posixpath.splitext(name)[0]: name for name in pictures} | {name: name for name in names}
