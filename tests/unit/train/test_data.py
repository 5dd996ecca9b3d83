"""The order of the data, references and drops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nigaoe.core.manifests import PreparedManifest
from nigaoe.train.config import DropConfig
from nigaoe.train.features import PreparedFeatures
from nigaoe.train.objective import drop_masks
from nigaoe.train.prepared import PreparedDataset, ShardedRows
from nigaoe.train.sampler import rows_at


@given(st.integers(1, 4), st.integers(1, 7), st.integers(2, 40), st.integers(0, 5))
def test_an_epoch_visits_every_row_once(world: int, batch: int, rows: int, seed: int) -> None:
    seen: list[int] = []
    for step in range(2 * rows):
        for rank in range(world):
            seen += rows_at(step, rank, world, batch, rows, seed).tolist()
    for epoch in range(3):
        part = seen[epoch * rows : (epoch + 1) * rows]
        assert sorted(part) == list(range(rows)) or len(part) < rows


def test_drops_are_mutually_exclusive_and_as_frequent_as_asked() -> None:
    uniform = (torch.arange(100_000) + 0.5) / 100_000
    image, text = drop_masks(uniform, DropConfig(image=0.05, text=0.1, both=0.2))
    assert (image & ~text).float().mean() == pytest.approx(0.05, abs=1e-4)
    assert (text & ~image).float().mean() == pytest.approx(0.1, abs=1e-4)
    assert (image & text).float().mean() == pytest.approx(0.2, abs=1e-4)


def test_references_are_other_pictures_of_the_same_person() -> None:
    identity = torch.tensor([0, 1, 0, 2, 0, 1])
    counts = torch.bincount(identity)
    dataset = PreparedDataset(
        manifest=PreparedManifest(
            source="",
            captions_sha256="",
            fingerprint="",
            base="",
            image_encoder="",
            image_encoder_hash="",
            resolution_px=1,
            rows=6,
            identities=3,
            shards=[],
        ),
        features=PreparedFeatures("image_embeds", None, {}),
        prompts={},
        columns={"identity": identity},
        first_of_identity=torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]),
        by_identity=identity.argsort(stable=True),
    )
    seen = set()
    for i in range(200):
        rows = torch.arange(6)
        others = dataset._others(rows, torch.full((6,), i / 200))
        assert torch.equal(identity[others], identity[rows])
        assert (others != rows)[[0, 1, 2, 4, 5]].all()
        assert others[3] == 3
        seen.add(int(others[0]))
    assert seen == {2, 4}


def test_rows_are_found_in_whichever_shard_they_lie() -> None:
    whole = torch.arange(14).view(7, 2)
    rows = torch.tensor([6, 0, 2, 3, 3, 5, 1])
    for lengths in ([7], [3, 3, 1], [1] * 7):
        assert torch.equal(ShardedRows.of(whole.split(lengths)).at(rows), whole[rows].float())
