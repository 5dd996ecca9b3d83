"""How a batch is divided: over the workers, and over what each of them computes at once."""

from typing import NamedTuple


class Division(NamedTuple):
    """Parts as equal as can be: any number of workers can share any batch that has a sample for each."""

    batch_size: int
    world_size: int
    accumulation: int
    """Parts that each worker computes, one after the other."""

    @property
    def micro_batch_size(self) -> int:
        """Samples of the largest part."""
        return -(-self.batch_size // (self.world_size * self.accumulation))

    def part(self, rank: int, number: int) -> range:
        """Positions in the batch; none, where there are more parts than samples."""
        parts, index = self.world_size * self.accumulation, rank * self.accumulation + number
        return range(index * self.batch_size // parts, (index + 1) * self.batch_size // parts)

    def weight(self, part: range) -> float:
        """What the mean over a part counts in the mean over all parts, so that every sample counts alike."""
        return len(part) * self.world_size * self.accumulation / self.batch_size


def divide(batch_size: int, world_size: int, most: int | None) -> Division:
    """`most`: what a worker can compute at once; its whole share when absent."""
    share = -(-batch_size // world_size)
    return Division(batch_size, world_size, -(-share // min(share, most or share)))
