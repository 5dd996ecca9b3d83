"""Pictures that somebody else has made: `<sample>.png` in a folder, with what they were made from beside them.

`metadata.jsonl`, a line per picture with `file_name`, `prompt` and `reference`, as the Hugging Face imagefolder has it,
says of what a picture is. Without it nobody can know whether a prompt was used, so CLIP-T is not reported.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from nigaoe.core.errors import DataError, ImageError
from nigaoe.core.images import read_image
from nigaoe.eval.protocols.protocol import Sample
from nigaoe.eval.scoring.weights import file_fingerprint

METADATA = "metadata.jsonl"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, eq=False)
class FolderPictures:
    """A folder of finished pictures."""

    folder: Path
    files: dict[str, Path]
    """By sample."""
    prompts: dict[str, str]
    """What each was drawn from, by sample; empty where nobody says."""

    @classmethod
    def open(cls, folder: Path) -> "FolderPictures":
        """List a folder.

        Raises:
            DataError: It is missing, empty or holds a sample twice, or its metadata cannot be read.
        """
        if not folder.is_dir():
            raise DataError(f"folder of pictures {str(folder)!r} does not exist; give one with a picture per sample")
        files: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in SUFFIXES:
                if path.stem in files:
                    raise DataError(f"{str(folder)!r} holds {files[path.stem].name!r} and {path.name!r}; keep one")
                files[path.stem] = path
        if not files:
            raise DataError(f"folder {str(folder)!r} holds no PNG, JPEG or WebP files; give a picture per sample")
        return cls(folder, files, _read_prompts(folder / METADATA))

    def require_prompt(self, sample: str, prompt: str) -> None:
        """Refuse to score a picture against words that it was not drawn from.

        Raises:
            DataError: The metadata says another prompt.
        """
        said = self.prompts.get(sample)
        if said is not None and said != prompt:
            raise DataError(
                f"{str(self.folder)!r}: picture {sample!r} was drawn from {said!r} and would be scored against "
                f"{prompt!r}; score pictures against the prompts that they were drawn from"
            )

    def read(self, sample: Sample) -> Image.Image:
        """The picture of a sample.

        Raises:
            ImageError: It is missing or broken.
        """
        if sample.id not in self.files:
            raise ImageError(f"there is no picture {sample.id}.png")
        return read_image(self.files[sample.id])

    def fingerprint(self, sample: str) -> str:
        """Hash of a picture's file and of what is said of it; 'missing' where there is none."""
        path = self.files.get(sample)
        return "missing" if path is None else f"{file_fingerprint(path)} {self.prompts.get(sample)!r}"


def _read_prompts(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    prompts = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            said = json.loads(line)
            prompts[Path(said["file_name"]).stem] = str(said["prompt"])
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"{str(path)!r} line {number} is no JSON object with 'file_name' and 'prompt'; write both"
            ) from None
    return prompts
