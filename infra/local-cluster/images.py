"""What images stand for where none is built: this checkout, its Python environment and what the Dockerfile says."""

import os
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from pods import Mount

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "infra" / "docker" / "Dockerfile"
SYSTEM_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Of the image that ours begin with."""
PARTS = ("core", "train", "serve", "eval")


@dataclass(frozen=True)
class Image:
    """What is in a container before its manifest says anything."""

    variables: dict[str, str]
    folder: str
    mounts: tuple[Mount, ...]
    own: tuple[str, ...]
    entrypoint: tuple[str, ...] = ()
    """Before the arguments of a container that names no command."""


def image(name: str) -> Image:
    """What a manifest means by an image's name."""
    repository = name.rpartition(":")[0] or name
    if re.fullmatch("(.*/)?nigaoe-(train|serve|eval|all)", repository):
        return of_this_checkout()
    if repository == "redis":
        program = shutil.which("redis-server")
        if program is None:
            raise ValueError("image 'redis' needs the program redis-server: apt-get install redis-server")
        return Image({"PATH": SYSTEM_PATH}, "/data", (), (), (program,))
    raise ValueError(f"image {name!r} is not known here; expected redis or nigaoe-train, -serve, -eval or -all")


def of_this_checkout() -> Image:
    """The stage `runtime` of the Dockerfile, with this Python environment as what its targets install."""
    lines = stage("runtime")
    (folder,) = [words[0] for name, words in lines if name == "WORKDIR"]
    given = dict(word.split("=", 1) for name, words in lines if name == "ENV" for word in words)
    path = given["PATH"].replace("$PATH", SYSTEM_PATH)
    # In an image they are installed. `tini`, its entrypoint, is left out: a namespace ends with its process 1.
    packages = ":".join(f"/src/packages/{part}" for part in PARTS)
    variables = given | {"PATH": path, "PYTHONPATH": packages, "HOME": "/home/ray", "LANG": "C.UTF-8"}
    mounts = (
        Mount(path.partition(":")[0].removesuffix("/bin"), Path(sys.prefix), read_only=True),
        Mount("/src/packages", ROOT / "packages", read_only=True),
        Mount(f"{folder}/configs", ROOT / "configs", read_only=True),
    )
    return Image(variables, folder, mounts, ("/home/ray", "/models", "/mnt/shared", f"{folder}/runs"))


def stage(wanted: str) -> list[tuple[str, list[str]]]:
    """Instructions of a stage of the Dockerfile, each with its words."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    found, current = [], ""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        name, _, rest = line.partition(" ")
        current = rest.rpartition(" AS ")[2] if name == "FROM" else current
        if current == wanted and name in ("ENV", "WORKDIR"):
            found.append((name, shlex.split(rest)))
    return found


def owned(folder: Path, group: int) -> Path:
    """A volume as Kubernetes hands it to a pod with `fsGroup`: the group's, who may write."""
    if not folder.exists():
        folder.mkdir(parents=True)
        os.chown(folder, 0, group)
        folder.chmod(0o2775)
    return folder
