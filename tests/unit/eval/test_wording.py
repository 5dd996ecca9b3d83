"""Figures in words."""

import pytest

from nigaoe.core.reports import Estimate
from nigaoe.eval.pages.wording import Style, counted, figure, p_value

MINUS = "\N{MINUS SIGN}"
SPACE = "\N{NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("value", "is_share", "words"),
    [
        (0.9042, True, f"90.4{SPACE}%"),
        (0.0, False, "0.000"),
        (0.85249, False, "0.852"),
        (-0.0312, False, "-0.0312"),
        (0.0021, False, "0.00210"),
        (123.456, False, "123.5"),
        (float("nan"), True, "\N{EN DASH}"),
    ],
)
def test_a_figure_has_the_digits_that_matter(value: float, is_share: bool, words: str) -> None:
    assert figure(value, is_share) == words


def test_a_column_shares_its_digits() -> None:
    style = Style.of(False, [Estimate(value=0.004, n=9), Estimate(value=0.011, n=9, low=0.002, high=0.03)])
    assert [style.bare(v) for v in (0.004, 0.0111)] == ["0.0040", "0.0111"]
    assert style.interval(Estimate(value=0.011, n=9, low=0.002, high=0.03)) == "0.0020 \N{EN DASH} 0.0300"
    assert style.interval(Estimate(value=0.011, n=9)) == ""


def test_differences_have_a_sign_unless_they_are_nothing() -> None:
    style = Style(is_share=True, decimals=1)
    told = Estimate(value=-0.093, n=9, low=-0.13, high=0.056)
    assert style.signed(told.value) == f"{MINUS}9.3"
    assert style.signed_interval(told) == f"{MINUS}13.0 to +5.6"
    assert [style.signed(v) for v in (0.0, -0.0001, float("nan"))] == ["0.0", "0.0", "\N{EN DASH}"]


def test_p_has_no_endless_zeros() -> None:
    assert [p_value(p).replace(SPACE, "") for p in (0.0001, 0.0342, 0.31, 1.0)] == [
        "p<0.001",
        "p=0.034",
        "p=0.31",
        "p=1.00",
    ]


def test_one_is_no_plural() -> None:
    assert [counted(n, "sample") for n in (1, 0, 2000)] == ["1 sample", "0 samples", "2,000 samples"]
