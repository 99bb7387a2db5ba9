"""Rates: which texts are some, and that they arrive in the rules of channels."""

from __future__ import annotations

import pytest

from hubbub.channels import ChannelRules
from hubbub.errors import ConfigurationError
from hubbub.rates import Rate, parse_rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("", None),
        ("20/s", Rate(20, 1)),
        ("100/m", Rate(100, 60)),
        ("5000/h", Rate(5000, 3600)),
        (" 1 / s ", Rate(1, 1)),
        ("999999999/h", Rate(999_999_999, 3600)),
    ],
)
def test_rates(text: str, rate: Rate | None) -> None:
    assert parse_rate(text) == rate
    assert ChannelRules(rate=text).publish_rate == rate


@pytest.mark.parametrize(
    "text", ["20", "/s", "s", "0/s", "-1/s", "1.5/s", "20/S", "20/d", "20/10s", "20/s/s", "20 per second", "٢/s", " "]
)
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r'^expected a rate such as "20/s", "100/m" or "5000/h", or "" for no'):
        parse_rate(text)
    with pytest.raises(ConfigurationError, match=r"^rate = '.*': expected a rate such as") as caught:
        ChannelRules(rate=text)
    assert caught.value.__cause__ is None
