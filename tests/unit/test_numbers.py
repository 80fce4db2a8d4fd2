"""Numbers for reading."""

from __future__ import annotations

import pytest

from tensorpress.files.numbers import number, significant, spans


@pytest.mark.parametrize(
    ("value", "by_decimals", "by_digits"),
    [
        (0.0, "0.00", "0"),
        (-0.0001, "0.00", "-0.0001"),
        (0.000012345, "0.00", "1.234e-05"),
        (321.4159, "321.42", "321.4"),
        (32065.94, "32,066", "32066"),
        (99_999.2, "99,999", "99999"),
        (99_999.996, "1.00·10^5", "1.00·10^5"),
        (1e5, "1.00·10^5", "1.00·10^5"),
        (-2.5e7, "-2.50·10^7", "-2.50·10^7"),
        (3.456e38, "3.46·10^38", "3.46·10^38"),
        (float("inf"), "inf", "inf"),
    ],
)
def test_large_numbers_are_powers_of_ten(value: float, by_decimals: str, by_digits: str) -> None:
    assert number(value, 2) == by_decimals
    assert significant(value) == by_digits


def test_spans() -> None:
    assert spans([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert spans([]) == ""
