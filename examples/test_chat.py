"""Tests of the chat beside this file: its own hub, no sockets, no waiting.

Run them with `python -m pytest examples/test_chat.py`, once `pytest` and `pytest-asyncio` are installed.
"""

import pytest
from examples.chat import Message, hub

from hubbub import PermissionDenied
from hubbub.testing import TestHub

pytestmark = pytest.mark.asyncio


async def test_nobody_writes_in_the_name_of_another() -> None:
    """Bob says that Ann said it, and Ann hears that it was Bob."""
    async with TestHub(hub) as server:
        ann, bob = await server.connect(data={"name": "ann"}), await server.connect(data={"name": "bob"})
        await ann.subscribe("room:lobby")
        await bob.subscribe("room:lobby")
        await bob.publish("room:lobby", {"type": "message", "text": "hi", "author": "ann"})
        publication = await ann.next("room:lobby", type=Message)
        assert publication.data == Message("hi", author="bob")


async def test_who_comes_back_gets_what_it_missed_but_no_hints() -> None:
    """Ann's connection is cut; typing is for who listens now, messages are kept."""
    async with TestHub(hub) as server:
        ann, bob = await server.connect(user="ann"), await server.connect(user="bob")
        await ann.subscribe("room:lobby")
        await bob.subscribe("room:lobby")
        await ann.drop()
        await bob.publish("room:lobby", {"type": "typing"})
        await bob.publish("room:lobby", {"type": "message", "text": "are you there?"})
        returned = await ann.reconnect()
        missed = [publication.data["text"] for publication in returned.recovered["room:lobby"]]
        assert missed == ["are you there?"]


async def test_the_room_of_the_staff() -> None:
    """Ann is staff, and Bob is not."""
    async with TestHub(hub) as server:
        ann, bob = await server.connect(user="ann"), await server.connect(user="bob")
        await ann.subscribe("room:staff")
        with pytest.raises(PermissionDenied):
            await bob.subscribe("room:staff")
