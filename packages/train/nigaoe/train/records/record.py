"""One row of a dataset, wherever it is kept."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """Where a picture is: a file, or a part of one. Small, and the same on every machine of a cluster."""

    uri: str
    """Absolute path, or `s3://bucket/key`."""
    start: int | None = None
    """First byte of it inside a tar; row of it in a parquet file."""
    length: int | None = None
    """Bytes inside a tar."""
    column: str | None = None
    """Column of a parquet file."""
    member: str | None = None
    """Its name inside a tar, for messages."""

    @property
    def name(self) -> str:
        """How messages call it."""
        if self.column is not None:
            return f"{self.uri} row {self.start}"
        return self.uri if self.member is None else f"{self.uri}/{self.member}"


@dataclass(frozen=True)
class Record:
    """A picture to be learnt, what is said of it, whose it is, and what prompts for it."""

    key: str
    """Unique in its dataset: the file name as the dataset writes it, or the key of a tar's sample."""
    image: Picture
    captions: tuple[str, ...]
    identity: str
    """Pictures of one person share it; the key where nobody said."""
    condition: Picture | None = None
    """The picture that prompts, where a column says it; None: `data.reference` decides."""
