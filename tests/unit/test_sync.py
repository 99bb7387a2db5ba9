"""The blocking face without Redis: its thread, its handlers, and what it refuses."""

from __future__ import annotations

import asyncio
import logging
import queue
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hubbub import BadRequest, ConfigurationError, NotAvailable, Publication, UnknownChannel
from hubbub.errors import BackendError
from hubbub.sync import Hubbub, background, face

#: Seconds for what must come, on any machine.
PATIENCE = 20.0

CHANNELS: dict[str, Any] = {"orders": {"delivery": "recent"}, "news": {"delivery": "live"}}


@dataclass
class Order:
    number: int


def made(**options: Any) -> Hubbub:
    return Hubbub("memory://", channels=CHANNELS, **options)


@pytest.fixture
def hub() -> Iterator[Hubbub]:
    hub = made()
    yield hub
    hub.stop()


@pytest.fixture
def threads() -> Callable[[], list[str]]:
    """The names of those that have begun since."""
    before = set(threading.enumerate())
    return lambda: [thread.name for thread in threading.enumerate() if thread not in before]


class Box:
    """What handlers were given."""

    def __init__(self) -> None:
        self.heard: queue.Queue[Any] = queue.Queue()

    def take(self, count: int) -> list[Any]:
        return [self.heard.get(timeout=PATIENCE) for _ in range(count)]


def until(condition: Callable[[], object]) -> None:
    """About what other threads do."""
    waited = threading.Event()
    for _ in range(int(PATIENCE / 0.005)):
        if condition():
            return
        waited.wait(0.005)
    pytest.fail("it did not come to be")


def test_memory_has_to_be_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HUBBUB_BROKER_URL", raising=False)
    with pytest.raises(ConfigurationError, match=r"broker\.url is not set.*Hubbub\('memory://'\)"):
        Hubbub()
    monkeypatch.setenv("HUBBUB_BROKER_URL", "memory://")
    assert Hubbub().settings.broker.url == "memory://"
    (tmp_path / "hubbub.toml").write_text('[broker]\nname = "shop"\n')
    assert Hubbub().settings.broker.name == "shop"


@pytest.mark.parametrize(("smallest", "largest"), [(-1, 2), (3, 2), (0, 0)])
def test_a_pool_has_a_size(smallest: int, largest: int) -> None:
    with pytest.raises(ConfigurationError, match="expected 0 <= pool_min <= pool_max"):
        made(pool_min=smallest, pool_max=largest)


@pytest.mark.parametrize("deadline", [0, -1, 11])
def test_a_deadline_is_some_seconds(deadline: float) -> None:
    with pytest.raises(ConfigurationError, match=r"deadline = .*at most 10"):
        made(deadline=deadline)


def test_what_is_published_is_kept_and_read(hub: Hubbub) -> None:
    first = hub.publish("orders:1", {"number": 1})
    rest = hub.publish_many([("orders:1", {"number": 2}), ("news:x", "hi"), ("orders:1", {"number": 3})])
    assert first.position is not None
    assert [done.position and done.position.offset for done in rest] == [2, None, 3]
    kept = hub.history("orders:1", type=Order)
    assert [each.data for each in kept.publications] == [Order(1), Order(2), Order(3)]
    newest = hub.history("orders:1", limit=1, reverse=True)
    assert newest.publications[0].data == {"number": 3}
    assert hub.history("orders:1", since=kept.position).publications == []


def test_the_gate_is_the_same(hub: Hubbub) -> None:
    with pytest.raises(UnknownChannel):
        hub.publish("nowhere:1", 1)
    with pytest.raises(BadRequest):
        hub.publish("orders:1", object())
    with pytest.raises(BadRequest, match="publication 1"):
        hub.publish_many([("orders:1", 1), ("orders:1", float("nan"))])
    assert hub.history("orders:1").position.offset == 0
    with pytest.raises(NotAvailable):
        hub.history("news:1")


def test_handlers_get_all_in_order_and_read_as_they_ask(hub: Hubbub) -> None:
    named, matched = Box(), Box()

    @hub.on("orders:1")
    def one(order: Order) -> None:
        named.heard.put(order)

    @hub.on("orders:*")
    def all_of_them(publication: Publication[Order]) -> None:
        matched.heard.put((publication.channel, publication.data.number))

    with hub:
        for number in range(50):
            hub.publish("orders:1", {"number": number})
        hub.publish("orders:2", {"number": 99})
        assert named.take(50) == [Order(number) for number in range(50)]
        assert matched.take(51) == [*(("orders:1", number) for number in range(50)), ("orders:2", 99)]
        with pytest.raises(BadRequest, match="number"):
            hub.publish("orders:1", {"number": "many"})


def test_one_that_raises_harms_nobody(hub: Hubbub, caplog: pytest.LogCaptureFixture) -> None:
    box = Box()

    @hub.on("news:1")
    def quits(publication: Publication[int]) -> None:
        box.heard.put(publication.data)
        if publication.data == 0:
            raise ValueError("no")
        sys.exit(3)

    with hub:
        for number in range(3):
            hub.publish("news:1", number)
        assert box.take(3) == [0, 1, 2]
        assert hub.publish("orders:1", {"number": 1}).position is not None
    failures = [record for record in caplog.records if "quits" in record.getMessage()]
    assert len(failures) == 3
    assert "SystemExit(3)" in caplog.text


def test_a_slow_handler_holds_up_nobody(hub: Hubbub) -> None:
    box, free = Box(), threading.Event()

    @hub.on("news:1")
    def slow(number: int) -> None:
        free.wait(PATIENCE)
        box.heard.put(("slow", number))

    @hub.on("news:*")
    def fast(number: int) -> None:
        box.heard.put(("fast", number))

    with hub:
        hub.publish_many([("news:1", 1), ("news:1", 2)])
        assert box.take(2) == [("fast", 1), ("fast", 2)]
        assert hub.channels("news:*") == {"news:1": 1}
        free.set()
        assert box.take(2) == [("slow", 1), ("slow", 2)]


def test_stop_waits_for_who_is_at_work(hub: Hubbub, threads: Callable[[], list[str]]) -> None:
    begun, ended = threading.Event(), threading.Event()

    @hub.on("news:1")
    def thorough(number: int) -> None:
        begun.set()
        threading.Event().wait(0.3)
        ended.set()

    hub.start()
    hub.publish("news:1", 1)
    assert begun.wait(PATIENCE)
    hub.stop()
    assert ended.is_set()
    until(lambda: not threads())


def test_a_handler_may_publish_and_stop(hub: Hubbub, threads: Callable[[], list[str]]) -> None:
    box = Box()

    @hub.on("news:1")
    def answers(number: int) -> None:
        hub.publish("orders:1", {"number": number})
        hub.stop()
        box.heard.put(number)

    hub.start()
    hub.publish("news:1", 7)
    assert box.take(1) == [7]
    until(lambda: not threads())


def test_handlers_hear_between_start_and_stop_only(hub: Hubbub) -> None:
    box = Box()

    @hub.on("news:1")
    def show(number: int) -> None:
        box.heard.put(number)

    assert hub.channels() == {}, "to ask begins the thread, and no handlers"
    hub.publish("news:1", 1)
    hub.start()
    hub.start()
    assert hub.channels() == {"news:1": 1}
    hub.publish("news:1", 2)
    assert box.take(1) == [2]

    @hub.on("news:2")
    def later(number: int) -> None:
        box.heard.put(-number)

    until(lambda: "news:2" in hub.channels())
    hub.publish("news:2", 3)
    assert box.take(1) == [-3]
    hub.stop()
    hub.stop()
    hub.publish("news:1", 4)
    hub.start()
    hub.publish("news:1", 5)
    assert box.take(1) == [5]


def test_without_handlers_no_thread_is_begun(hub: Hubbub, threads: Callable[[], list[str]]) -> None:
    box = Box()
    with hub:
        assert not threads()

        @hub.on("news:1")
        def show(number: int) -> None:
            box.heard.put(number)

        hub.publish("news:1", 1)
        assert box.take(1) == [1]


def test_what_could_never_be_called_is_refused(hub: Hubbub) -> None:
    with pytest.raises(ConfigurationError, match="is async, and this is the blocking face: write `def wrong`"):

        @hub.on("news:1")
        async def wrong(number: int) -> None: ...

    with pytest.raises(ConfigurationError, match="a handler takes"):

        @hub.on("news:1")  # type: ignore[type-var]  # a type checker sees it, too
        def two(one: int, other: int) -> None: ...

    with pytest.raises(ConfigurationError, match="in the brackets of the decorator"):
        hub.on(until)  # type: ignore[arg-type]  # as if the brackets were forgotten


def test_a_handler_of_a_channel_without_rules_is_an_error_at_start(hub: Hubbub) -> None:
    @hub.on("nowhere:1")
    def show(number: int) -> None: ...

    for _ in range(2):  # it can be tried again
        with pytest.raises(UnknownChannel, match="show"):
            hub.start()


def test_sixteen_threads_share_it(hub: Hubbub) -> None:
    def publish() -> None:
        for number in range(20):
            hub.publish("orders:1", {"number": number})

    threads = [threading.Thread(target=publish) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert hub.history("orders:1", limit=0).position.offset == 320


async def test_inside_an_event_loop_it_works_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    hub = made()
    try:
        assert hub.publish("orders:1", {"number": 1}).position is not None
        assert len(hub.history("orders:1").publications) == 1
    finally:
        hub.stop()
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "use hubbub.Hubbub there" in warnings[0].getMessage()


def test_a_loop_that_ends_by_itself_begins_again(
    hub: Hubbub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "RETRY", 0.01)
    box = Box()

    @hub.on("news:1")
    def show(number: int) -> None:
        box.heard.put(number)

    def deadly() -> None:
        raise SystemExit("the end of the loop")

    async def end_it(_: object) -> None:
        asyncio.get_running_loop().call_soon(deadly)

    hub.start()
    hub._ask(end_it)
    until(lambda: "it begins again" in caplog.text)

    def is_back() -> bool:
        try:
            return hub.channels() == {"news:1": 1}
        except BackendError:
            return False

    until(is_back)
    hub.publish("news:1", 1)
    assert box.take(1) == [1]


def test_a_call_without_an_answer_ends(hub: Hubbub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "CALL_DEADLINE", 0.2)

    async def hang(_: object) -> None:
        await asyncio.Event().wait()

    with pytest.raises(BackendError, match="did not answer within"):
        hub._ask(hang)
    assert hub.channels() == {}


def test_a_timeout_of_the_work_itself_stays_one(hub: Hubbub) -> None:
    async def late(_: object) -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        hub._ask(late)


def test_who_waits_while_it_is_stopped_is_told(hub: Hubbub) -> None:
    asked, errors = threading.Event(), Box()

    async def hang(_: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    def ask() -> None:
        try:
            hub._ask(hang)
        except BackendError as error:
            errors.heard.put(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    assert asked.wait(PATIENCE)
    hub.stop()
    thread.join(PATIENCE)
    assert errors.take(1) == ["the hub was stopped before it had answered"]


def test_greenlets_are_told_where_handlers_run(hub: Hubbub, monkeypatch: pytest.MonkeyPatch) -> None:
    patched = types.ModuleType("gevent.monkey")
    patched.is_module_patched = lambda name: name == "threading"  # type: ignore[attr-defined]  # as gevent's has it
    monkeypatch.setitem(sys.modules, "gevent.monkey", patched)
    with pytest.raises(ConfigurationError, match="in a process without gevent"):
        hub.channels()


def test_a_start_that_takes_for_ever_ends(
    hub: Hubbub, monkeypatch: pytest.MonkeyPatch, threads: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(background, "START_DEADLINE", 0.2)
    free = threading.Event()

    async def wait_for_it(*_: object) -> None:
        await asyncio.to_thread(free.wait, PATIENCE)

    with monkeypatch.context() as slow:
        slow.setattr(face._Process, "_meet", wait_for_it)
        with pytest.raises(BackendError, match="did not start within"):
            hub.channels()
    free.set()
    monkeypatch.setattr(background, "START_DEADLINE", PATIENCE)
    assert hub.channels() == {}
    until(lambda: threads().count("hubbub") == 1)


def test_tokens_need_no_start(hub: Hubbub) -> None:
    with pytest.raises(ConfigurationError, match="hmac_secret"):
        hub.token("ann")
    assert made(auth={"hmac_secret": "a secret of thirty-two bytes or more"}).token("ann").count(".") == 2


def test_what_a_store_keeps_goes_through_the_thread(tmp_path: Path) -> None:
    hub = Hubbub(
        "memory://",
        channels={"orders": {"delivery": "durable"}},
        store=f"sqlite:///{tmp_path}/orders.db",
    )
    try:
        assert [done.position and done.position.offset for done in hub.publish_many([("orders:1", 1)] * 3)] == [1, 2, 3]
        assert len(hub.history("orders:1").publications) == 3
    finally:
        hub.stop()
    assert (tmp_path / "orders.db").exists()
