"""People of the toy world: what makes an identity, what is only a scene, and how a caption speaks of both."""

import hashlib
import random
from dataclasses import asdict, dataclass
from typing import Literal

Style = Literal["photo", "anime"]
STYLES: tuple[Style, Style] = ("photo", "anime")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "gender": ("man", "woman"),
    "skin": ("pale", "tan", "brown", "dark"),
    "hair": ("black", "brown", "blond", "red", "white", "blue"),
    "hair_style": ("short", "spiky", "bob", "long", "curly"),
    "eyes": ("brown", "blue", "green", "purple"),
    "face": ("narrow", "oval", "wide"),
    "glasses": ("none", "round", "square"),
    "beard": ("none", "beard"),
    "headwear": ("none", "red", "green", "yellow"),
}
"""Identity: each attribute's values, in label order. `hair` is its colour."""

SCENE: dict[str, tuple[str, ...]] = {
    "background": ("red", "green", "blue", "yellow", "grey", "pink"),
    "shirt": ("red", "green", "blue", "yellow", "white", "black"),
    "expression": ("neutral", "smiling"),
}
"""Nuisance that has a name; pose, scale and light are continuous and have none."""

MEDIUM: dict[Style, str] = {"photo": "a photo of", "anime": "an anime drawing of"}


@dataclass(frozen=True)
class Identity:
    """One person: an index into every entry of `ATTRIBUTES`."""

    gender: int
    skin: int
    hair: int
    hair_style: int
    eyes: int
    face: int
    glasses: int
    beard: int
    headwear: int

    def labels(self) -> list[int]:
        """Attribute indices in the order of `ATTRIBUTES`."""
        return [asdict(self)[name] for name in ATTRIBUTES]

    def describe(self) -> dict[str, str]:
        """Attribute names to values in words."""
        return {name: values[asdict(self)[name]] for name, values in ATTRIBUTES.items()}


@dataclass(frozen=True)
class Scene:
    """Everything in a picture that is not the person. Offsets are fractions of the picture's side."""

    background: int
    shirt: int
    expression: int
    offset_x: float
    offset_y: float
    tilt_rad: float
    scale: float
    turn: float
    """-1 (looks left) .. 1 (looks right)."""
    light: float
    """-1 (lit from the left) .. 1 (lit from the right)."""
    light_strength: float
    seed: int


def sample_identity(rng: random.Random) -> Identity:
    """Draw a person: beards on half the men, glasses on 55 %, headwear on half, all else uniform."""
    drawn = {name: rng.randrange(len(values)) for name, values in ATTRIBUTES.items()}
    drawn["beard"] = int(drawn["gender"] == 0 and rng.random() < 0.5)
    drawn["glasses"] = 0 if rng.random() < 0.45 else rng.randrange(1, 3)
    drawn["headwear"] = 0 if rng.random() < 0.5 else rng.randrange(1, 4)
    return Identity(**drawn)


def sample_scene(rng: random.Random) -> Scene:
    """Draw a background, a shirt, an expression, a pose and a light."""
    return Scene(
        background=rng.randrange(len(SCENE["background"])),
        shirt=rng.randrange(len(SCENE["shirt"])),
        expression=rng.randrange(2),
        offset_x=rng.uniform(-0.03, 0.03),
        offset_y=rng.uniform(-0.02, 0.025),
        tilt_rad=rng.uniform(-0.1, 0.1),
        scale=rng.uniform(0.93, 1.07),
        turn=rng.uniform(-1, 1),
        light=rng.uniform(-1, 1),
        light_strength=rng.uniform(0.4, 1.0),
        seed=rng.randrange(1 << 30),
    )


def caption(identity: Identity, scene: Scene, style: Style, rng: random.Random, density: float | None = None) -> str:
    """Describe a picture in plain English.

    Args:
        identity: The person.
        scene: The scene.
        style: Which medium the caption names.
        rng: Decides which attributes are named.
        density: Probability of naming each one; drawn per caption when None, so some captions are bare.
            Eye colour and face shape are named at half that rate, as people do.
    """
    p = rng.choice((0.0, 0.25, 0.5, 0.75, 1.0)) if density is None else density
    said = identity.describe()
    subject = said["gender"] if rng.random() < max(p, 0.3) else "person"
    hair = [said[key] for key in ("hair_style", "hair") if rng.random() < p]
    parts = []
    if hair:
        parts.append(f"with {' '.join(hair)} hair")
    if rng.random() < p * 0.6:
        parts.append(f"with {said['skin']} skin")
    if rng.random() < p * 0.5:
        parts.append(f"with {said['eyes']} eyes")
    if rng.random() < p * 0.5:
        parts.append(f"with {'an' if said['face'] == 'oval' else 'a'} {said['face']} face")
    if identity.glasses and rng.random() < p:
        parts.append(f"wearing {said['glasses']} glasses")
    if identity.beard and rng.random() < p:
        parts.append("with a beard")
    if identity.headwear and rng.random() < p:
        parts.append(f"in a {said['headwear']} hat")
    if scene.expression and rng.random() < p:
        parts.append("smiling")
    if rng.random() < p:
        parts.append(f"in a {SCENE['shirt'][scene.shirt]} shirt")
    if rng.random() < max(p, 0.3):
        parts.append(f"on a {SCENE['background'][scene.background]} background")
    rng.shuffle(parts)
    return " ".join([MEDIUM[style], "a", subject, *parts])


Split = Literal["train", "validation", "heldout"]


def split_of(identity: Identity) -> Split:
    """Which split a person belongs to, decided by the attributes alone: 14/16 train, 1/16 each for the others.

    Nothing in the toy world is ever trained or tuned on a held-out identity.
    """
    digest = hashlib.sha256(bytes(identity.labels())).digest()[0] % 16
    return "heldout" if digest == 0 else "validation" if digest == 1 else "train"


def sample_identity_of(split: Split, rng: random.Random) -> Identity:
    """Draw a person of one split."""
    while split_of(identity := sample_identity(rng)) != split:
        pass
    return identity
