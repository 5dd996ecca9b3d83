"""Portraits of toy people as a stranger would hand over a dataset: JPEG files and a CSV of captions."""

import csv
import multiprocessing
import random
from pathlib import Path

from tqdm import tqdm

from nigaoe.core.errors import DataError
from nigaoe.core.toy.people import Split, caption, sample_identity_of, sample_scene
from nigaoe.core.toy.render import render

CAPTIONS = 10
SPLITS: tuple[Split, ...] = ("train", "validation", "heldout")


def write_portraits(out: Path, people: int, scenes: int, split: str, seed: int) -> int:
    """Write `people * scenes` photos, `captions.csv` with ID, identity and caption_0..9; returns how many.

    Raises:
        DataError: No such split.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r} does not exist; choose one of {', '.join(SPLITS)}")
    out.mkdir(parents=True, exist_ok=True)
    jobs = [(out, split, seed, person, scenes) for person in range(people)]
    with multiprocessing.get_context("spawn").Pool() as pool:
        done = pool.imap(_write_person, jobs, chunksize=16)
        rows = [row for person in tqdm(done, total=people, desc="portraits", unit="person") for row in person]
    part = out / "captions.csv.part"
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["ID", "identity", *(f"caption_{i}" for i in range(CAPTIONS))])
        writer.writerows(rows)
    part.replace(out / "captions.csv")
    return len(rows)


def _write_person(job: tuple[Path, Split, int, int, int]) -> list[list[str]]:
    out, split, seed, person, scenes = job
    # The build draws its people from small seeds; a prefix keeps the two sequences apart.
    identity = sample_identity_of(split, random.Random(f"portraits/{split}/{seed}/{person}"))
    rng = random.Random(f"portraits/{split}/{seed}/{person}/scenes")
    rows = []
    for k in range(scenes):
        scene = sample_scene(rng)
        name = f"{person:05d}_{k}.jpg"
        render(identity, scene, "photo").save(out / name, quality=95)
        captions = [caption(identity, scene, "photo", rng) for _ in range(CAPTIONS)]
        rows.append([name, f"{person:05d}", *captions])
    return rows
