"""Who connects, where a setting and a name do not fit each other."""

from __future__ import annotations

import pytest

from hubbub.channels import Namespaces, PersonalChannels
from hubbub.core.access import Access
from hubbub.errors import BadRequest
from hubbub.model import Credentials


def access() -> Access:
    return Access(Namespaces(), personal=PersonalChannels("#{user}"))


@pytest.mark.parametrize("user", ["a:b", "a b", "x" * 300])
def test_a_user_whose_name_makes_no_channel_is_told_which_setting_asks_for_one(user: str) -> None:
    with pytest.raises(BadRequest, match=r"auth\.personal_channel = '#\{user\}' makes no channel for the user"):
        access().accept(Credentials(user), 0.0)


def test_others_have_their_channel() -> None:
    assert list(access().accept(Credentials("a"), 0.0).subs) == ["#a"]
