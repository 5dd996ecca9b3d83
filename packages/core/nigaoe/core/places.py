"""Names in configs as every process understands them, whatever folder it runs in."""

from pathlib import Path


def everywhere(name: str) -> str:
    """A name that is a folder or file here as an absolute path."""
    path = Path(name)
    return str(path.resolve()) if path.exists() and not name.startswith("toy/") else name


def face_encoder_everywhere(name: str) -> str:
    """A face encoder whose files are named by an absolute path."""
    kind, colon, where = name.partition(":")
    return f"{kind}:{Path(where).expanduser().resolve()}" if colon else name


def is_hub_id(name: str) -> bool:
    """Whether a name has to be asked for at the model hub: it is no path here, no address and none of the toy world."""
    is_toy_or_path = name.startswith(("toy/", ".", "/", "~")) or Path(name).exists()
    return name.count("/") == 1 and not is_toy_or_path


def hub_variables(names: list[str]) -> tuple[str, ...]:
    """Environment variables that models of these names may need."""
    return ("HF_TOKEN", "HF_ENDPOINT") if any(is_hub_id(name) for name in names) else ()
