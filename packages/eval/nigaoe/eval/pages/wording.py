"""Figures, intervals and differences in words."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from nigaoe.core.reports import Estimate

NBSP = "\N{NO-BREAK SPACE}"
"""A figure and its unit stay on one line."""
_NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class Style:
    """How figures of one column are written: with equally many digits, so that they compare at a glance."""

    is_share: bool
    decimals: int

    @classmethod
    def of(cls, is_share: bool, estimates: Iterable[Estimate]) -> "Style":
        """That of figures of such a size."""
        values = [v for e in estimates for v in (e.value, e.low, e.high) if v is not None and math.isfinite(v)]
        return cls(is_share, 1 if is_share else _decimals(max(map(abs, values), default=0.0)))

    def bare(self, value: float) -> str:
        """A figure without its unit; shares in percent."""
        if not math.isfinite(value):
            return _NOTHING
        text = f"{100 * value if self.is_share else value:.{self.decimals}f}"
        return text if float(text) else text.lstrip("-")

    def figure(self, value: float) -> str:
        """A figure with its unit."""
        return f"{self.bare(value)}{NBSP}%" if self.is_share and math.isfinite(value) else self.bare(value)

    def interval(self, estimate: Estimate) -> str:
        """The 95 % interval; empty where there is none."""
        if estimate.low is None or estimate.high is None:
            return ""
        return f"{self.bare(estimate.low)} \N{EN DASH} {self.bare(estimate.high)}"

    def signed(self, value: float) -> str:
        """A difference; that of shares in percentage points."""
        text = self.bare(value)
        if text == _NOTHING or not float(text):
            return text
        return f"\N{MINUS SIGN}{text[1:]}" if text.startswith("-") else f"+{text}"

    def signed_interval(self, estimate: Estimate) -> str:
        """That of a difference; empty where there is none."""
        if estimate.low is None or estimate.high is None:
            return ""
        return f"{self.signed(estimate.low)} to {self.signed(estimate.high)}"


def figure(value: float, is_share: bool) -> str:
    """One figure alone, with digits to its size."""
    return Style.of(is_share, [Estimate(value=value, n=1)]).figure(value)


def p_value(p: float) -> str:
    """`p = 0.034`, and no more zeros than anybody reads."""
    if p < 0.001:
        return f"p{NBSP}<{NBSP}0.001"
    return f"p{NBSP}={NBSP}{p:.3f}" if p < 0.1 else f"p{NBSP}={NBSP}{p:.2f}"


def counted(n: int, unit: str) -> str:
    """`1 sample`, `2,000 samples`."""
    return f"{n:,} {unit}" if n == 1 else f"{n:,} {unit}s"


def _decimals(size: float) -> int:
    if size >= 10:
        return 1
    if size >= 0.1 or size == 0:
        return 3
    # Two digits that matter of figures that are a tenth of the largest.
    return min(2 - math.floor(math.log10(size)), 9)
