"""Metrics that are a cosine of two embeddings: of a picture, and of the words or the picture that it was asked for.

Both embeddings are kept, so that wrong pairs can be scored at any time. N samples, E numbers per embedding, K wrong
partners.
"""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from nigaoe.core.errors import DataError
from nigaoe.eval.metrics.item_metric import ItemMetric, Seen
from nigaoe.eval.metrics.items import Items
from nigaoe.eval.metrics.pairing import PairControl, pair_control, score_wrong
from nigaoe.eval.scoring.clip import cosines


class EmbeddingPairMetric(ItemMetric):
    """Base of the cosines; a subclass says which embeddings, and which partner is a wrong one."""

    higher_is_better = True

    def items(self) -> Items:
        seen = self._table()
        pictures, partners = _halves(seen)
        values = self._figure(cosines(pictures, partners))
        return Items(self.name, self.setting, True, seen.ids, seen.groups, values, seen.failed)

    def control(self) -> PairControl:
        """The same figure with the pairs mixed up."""
        seen, matched, shuffled = self._scores()
        return pair_control(self.name, matched, shuffled, seen.groups)

    def _scores(self) -> tuple[Seen, Float64[np.ndarray, " N"], Float64[np.ndarray, "N K"]]:
        """What was seen, and the figures of right and of wrong pairs."""
        seen = self._table()
        pictures, partners = _halves(seen)
        groups, everyone = np.asarray(seen.groups), np.arange(len(seen.ids))

        def score(here: Int64[np.ndarray, " N"], there: Int64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
            return self._figure(cosines(pictures[here], partners[there]))

        def is_wrong(here: Int64[np.ndarray, " N"], there: Int64[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
            # The same words, or a copy of the same picture, are no wrong partner.
            differs = (partners[here] != partners[there]).any(axis=1)
            return np.asarray(differs & self._is_other(groups[here], groups[there]))

        return seen, score(everyone, everyone), score_wrong(score, is_wrong, len(seen.ids))

    def _figure(self, cosine: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
        """From cosine to the figure of one sample."""
        return cosine

    @abstractmethod
    def _is_other(self, groups: np.ndarray, others: np.ndarray) -> Bool[np.ndarray, " N"]:
        """Whether partners of these groups are wrong ones."""

    def _keep_pairs(
        self,
        ids: Sequence[str],
        groups: Sequence[str] | None,
        pictures: Float32[np.ndarray, "N E"],
        partners: Float32[np.ndarray, "N E"],
        marks: Bool[np.ndarray, "N 1"] | None = None,
    ) -> None:
        both = np.concatenate([pictures, partners], axis=1)
        if not np.isfinite(both).all():
            raise DataError(f"{self.name}: an embedding is not finite; look at the encoder {self.setting!r}")
        if not (pictures.any(axis=1) & partners.any(axis=1)).all():
            raise DataError(f"{self.name}: an embedding is all zeros and has no direction; look at the encoder")
        self._keep(ids, groups, both if marks is None else np.concatenate([both, marks], axis=1))


def _halves(seen: Seen) -> tuple[Float32[np.ndarray, "N E"], Float32[np.ndarray, "N E"]]:
    # With a mark there is one number more than two embeddings.
    width = seen.rows.shape[1] // 2
    return seen.rows[:, :width], seen.rows[:, width : 2 * width]
