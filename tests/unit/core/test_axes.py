"""Round numbers for axes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from nigaoe.core.axes import tick_label, ticks


@settings(deadline=None)
@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9), st.integers(2, 6))
def test_ticks_hold_the_range_between_them(low: float, width: float, about: int) -> None:
    high = low + width
    if high - low < 1e-6 * max(abs(low), abs(high)):
        return
    values = ticks(low, high, about)
    slack = 1e-6 * (high - low)
    assert values[0] <= low + slack
    assert values[-1] >= high - slack
    assert len(values) <= about + 2


def test_ticks_are_round_and_written_shortly() -> None:
    assert ticks(0.513, 0.688, 4) == [0.5, 0.55, 0.6, 0.65, 0.7]
    assert [tick_label(y, [0.0, 25000.0]) for y in (0.0, 12500.0, 25000.0)] == ["0", "12.5k", "25k"]
