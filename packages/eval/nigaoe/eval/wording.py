"""Figures, intervals and differences in words."""

import math

from nigaoe.core.reports import Estimate

NBSP = "\N{NO-BREAK SPACE}"
"""A figure and its unit stay on one line."""
_NOTHING = "\N{EN DASH}"


def figure(value: float, is_share: bool) -> str:
    """A share in percent, anything else with digits to its size."""
    if not math.isfinite(value):
        return _NOTHING
    return f"{100 * value:.1f}{NBSP}%" if is_share else f"{value:.{_decimals(abs(value))}f}"


def interval(estimate: Estimate, is_share: bool) -> str:
    """The 95 % interval; empty where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{_bare(estimate.low, estimate, is_share)} \N{EN DASH} {_bare(estimate.high, estimate, is_share)}"


def bare_figure(estimate: Estimate, is_share: bool) -> str:
    """A figure without its unit, with as many digits as its interval."""
    return _bare(estimate.value, estimate, is_share)


def difference(estimate: Estimate, is_share: bool) -> tuple[str, str]:
    """A difference and its interval with signs; those of shares in percentage points."""
    values = (estimate.value, estimate.low, estimate.high)
    value, low, high = ("" if v is None else _signed(_bare(v, estimate, is_share)) for v in values)
    return value, f"{low} \N{EN DASH} {high}" if low and high else ""


def p_value(p: float) -> str:
    """`p = 0.034`, and no more zeros than anybody reads."""
    if p < 0.001:
        return f"p{NBSP}<{NBSP}0.001"
    return f"p{NBSP}={NBSP}{p:.3f}" if p < 0.1 else f"p{NBSP}={NBSP}{p:.2f}"


def counted(n: int, unit: str, units: str | None = None) -> str:
    """`1 sample`, `2,000 samples`."""
    return f"{n:,} {unit if n == 1 else units or f'{unit}s'}"


def _bare(value: float, among: Estimate, is_share: bool) -> str:
    if not math.isfinite(value):
        return _NOTHING
    if is_share:
        return f"{100 * value:.1f}"
    sizes = [abs(v) for v in (among.value, among.low, among.high) if v is not None and math.isfinite(v)]
    return f"{value:.{_decimals(max(sizes))}f}"


def _decimals(size: float) -> int:
    """Three digits that matter, between one and six of them behind the point."""
    if size == 0:
        return 3
    return min(max(2 - math.floor(math.log10(size)), 1), 6) if size < 0.01 or size >= 10 else 3


def _signed(text: str) -> str:
    if text == _NOTHING or not float(text):
        return text.lstrip("-")
    return f"\N{MINUS SIGN}{text[1:]}" if text.startswith("-") else f"+{text}"
