"""An install is what constraints.txt says it is, and stays free of what does not fit."""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

LINES = (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
PINS = {canonicalize_name(name): pin for name, _, pin in (line.partition("==") for line in LINES if line[:1] != "#")}
# torch pins the CUDA packages of its own build; a CPU build has none.
CUDA_COMPANIONS = ("nvidia-", "cuda-", "triton")


def required(requirement: Requirement, seen: set[tuple[str, str]]) -> Iterator[str]:
    """Yield the names of all that `requirement` brings into this environment, itself included."""
    name = canonicalize_name(requirement.name)
    for extra in {"", *requirement.extras}:
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        yield name
        for line in requires(name) or []:
            child = Requirement(line)
            if child.marker is None or child.marker.evaluate({"extra": extra}):
                yield from required(child, seen)


def test_constraints_are_plain_public_pins() -> None:
    pin = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+")
    assert [line for line in LINES if line[:1] != "#" and not pin.fullmatch(line)] == []


def test_no_package_is_pinned_twice() -> None:
    assert len(PINS) == sum(line[:1] != "#" for line in LINES)


def test_everything_installed_for_development_is_pinned() -> None:
    names = set(required(Requirement("nigaoe[dev]"), set())) - {canonicalize_name("nigaoe")}
    assert len(names) > 100, "the walk over the requirements has lost its way"
    found = {name: Version(version(name)).public for name in names if not name.startswith(CUDA_COMPANIONS)}
    assert {name: pin for name, pin in found.items() if PINS.get(canonicalize_name(name)) != pin} == {}


def test_torch_is_pinned() -> None:
    assert PINS[canonicalize_name("torch")] == "2.13.0"


def test_torchvision_and_torch_fidelity_are_not_pinned() -> None:
    assert PINS.keys().isdisjoint({"torchvision", "torchaudio", "torch-fidelity"})


def test_torchvision_is_not_installed_beside_a_cpu_torch() -> None:
    if Version(version("torch")).local != "cpu":
        pytest.skip("torch is not a CPU build")
    with pytest.raises(PackageNotFoundError):
        version("torchvision")
