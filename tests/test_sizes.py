"""Sizes as people write them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontswap.errors import FrontswapError, ParameterError
from frontswap.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("4096B", 4096),
        ("64k", 65536),
        ("64K", 65536),
        ("64KB", 65536),
        ("64KiB", 65536),
        ("512M", 512 << 20),
        ("512 M", 512 << 20),
        (" 512mib ", 512 << 20),
        ("1.5G", 3 << 29),
        (".5G", 1 << 29),
        ("2GiB", 2 << 30),
        ("2T", 2 << 40),
        ("1P", 1 << 50),
        ("7E", 7 << 60),
        ("0.3k", 307),
        (2**63 - 1, 2**63 - 1),
        (np.int32(4096), 4096),
        (np.uint64(4096), 4096),
    ],
)
def test_size(given: int | str, size: int) -> None:
    result = parse_size(given, "limit")
    assert result == size
    assert type(result) is int


WRONG = [
    *[True, False, -1, 2**63, 1.5, 4096.0, None, b"512M", [512], np.float64(4096)],
    *["", " ", "512 MM", "5 1 2", "\N{ARABIC-INDIC DIGIT FIVE}M"],
    *["M", "-512M", "+512M", "512X", "1,5G", "1.5.2G", "1e9", "0x10", "auto", "8E", "1_000"],
]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_no_size(wrong: object) -> None:
    with pytest.raises(ParameterError) as error:
        parse_size(wrong, "limit")  # type: ignore[arg-type]
    message = str(error.value)
    assert message.startswith(f"limit={wrong!r}: must be a size in bytes")
    assert '"512M"' in message
    assert (error.value.parameter, error.value.given) == ("limit", wrong)
    assert isinstance(error.value, ValueError)
    assert isinstance(error.value, FrontswapError)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.50 KiB"),
        (65536, "64 KiB"),
        (512 << 20, "512 MiB"),
        ((512 << 20) + 1, "512 MiB"),
        (3 << 29, "1.50 GiB"),
        (12_345_678, "11.8 MiB"),
        (5 << 60, "5 EiB"),
        (5 << 70, "5120 EiB"),
        (-65536, "-64 KiB"),
    ],
)
def test_format(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, 1023), st.integers(0, 5))
def test_whole_units_round_trip(number: int, exponent: int) -> None:
    size = number << (10 * exponent)
    assert parse_size(format_size(size), "limit") == size


@given(st.integers(0, 2**62))
def test_what_is_formatted_parses_to_about_the_same(size: int) -> None:
    assert parse_size(format_size(size), "limit") == pytest.approx(size, rel=0.006)


@given(st.integers(0, 2**63 - 1))
def test_plain_bytes_round_trip(size: int) -> None:
    assert parse_size(size, "limit") == parse_size(str(size), "limit") == parse_size(f"{size}B", "limit") == size


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_a_parameter_error(text: str) -> None:
    try:
        size = parse_size(text, "limit")
    except ParameterError:
        return
    assert 0 <= size < 2**63
