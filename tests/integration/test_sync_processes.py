"""The blocking face in processes that fork, end and are interrupted, on a real server."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import pytest
from tests.backends import RedisServer
from tests.serving import ROOT, leashed

PATIENCE = 100.0

pytestmark = pytest.mark.timeout(120)  # each starts interpreters

HEAD = """
import os, signal, sys, threading, time
from hubbub import Publication
from hubbub.sync import Hubbub

hub = Hubbub(sys.argv[1], deadline=10, pool_max=POOL, channels={"chat": {"delivery": "recent", "history_size": 1000}})

def offset(done):
    return done.position.offset

def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.005)

def child(work):
    # In a forked child: what it returns is its exit code.
    pid = os.fork()
    if pid:
        return pid
    try:
        os._exit(work())
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(99)

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def run(server: RedisServer, program: str, pool_max: int = 10) -> str:
    """What the program prints, which has to end well."""
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"}
    program = HEAD.replace("POOL", str(pool_max)) + textwrap.dedent(program)
    command = leashed(sys.executable, "-W", "ignore", "-c", program, server.url)
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def heads(server: RedisServer) -> Any:
    return int(server.command("HGET", "hubbub:m:{chat:1}", "s"))


def test_children_connect_for_themselves_while_the_parents_connections_are_in_use(backend: RedisServer) -> None:
    """Threads of the parent publish all the time, so that each fork finds connections at work and locks held."""
    printed = run(
        backend,
        """
        is_over = False
        published = []

        def publish():
            while not is_over:
                published.append(offset(hub.publish("chat:1", "parent")))

        threads = [threading.Thread(target=publish) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(published) > 20)

        def work():
            done = [offset(hub.publish("chat:1", "child")) for _ in range(20)]
            return 0 if done == sorted(set(done)) else 1

        children = [child(work) for _ in range(8)]
        codes = [ended(pid) for pid in children]
        before = len(published)
        wait_for(lambda: len(published) > before + 20)
        is_over = True
        for thread in threads:
            thread.join()
        assert len(set(published)) == len(published), "no publish is taken for another's"
        print(codes, len(published) + 160)
        hub.stop()
        """,
    )
    codes, _, total = printed.strip().rpartition(" ")
    assert codes == str([0] * 8)
    assert heads(backend) == int(total)


def test_a_child_handles_for_itself_and_leaves_its_parent_alone(backend: RedisServer) -> None:
    run(
        backend,
        """
        heard = []

        @hub.on("chat:*")
        def show(publication: Publication[str]) -> None:
            heard.append(publication.data)

        hub.start()

        def work():
            assert not [each for each in threading.enumerate() if each.name == "hubbub"], "its thread stayed behind"
            hub.publish("chat:1", "by the child")
            assert hub.channels() == {}, "it asks with a thread of its own"
            assert not heard, "and handles nothing, unless it is started"
            hub.start()
            hub.publish("chat:1", "to the child")
            wait_for(lambda: "to the child" in heard)
            hub.stop()
            return 7

        assert ended(child(work)) == 7
        wait_for(lambda: heard == ["by the child", "to the child"])
        hub.publish("chat:1", "still here")
        wait_for(lambda: heard[-1] == "still here")
        hub.stop()
        """,
    )


def test_a_grandchild_too(backend: RedisServer) -> None:
    run(
        backend,
        """
        hub.publish("chat:1", 1)

        def grandchild():
            return offset(hub.publish("chat:1", 3))

        def work():
            hub.publish("chat:1", 2)
            return ended(child(grandchild))

        assert ended(child(work)) == 3
        assert offset(hub.publish("chat:1", 4)) == 4
        """,
    )


def test_a_process_that_forgets_to_stop_ends_all_the_same(backend: RedisServer) -> None:
    """Also with a handler that never returns."""
    run(
        backend,
        """
        begun = threading.Event()

        @hub.on("chat:1")
        def hang(publication: Publication[str]) -> None:
            begun.set()
            threading.Event().wait()

        import hubbub.handlers.consumers
        hubbub.handlers.consumers.LAST_WORDS = 0.1
        hub.start()
        hub.publish("chat:1", "hi")
        assert begun.wait(60)
        """,
    )


@pytest.mark.parametrize("idle", ["15.0", "0.0"], ids=["asking", "asking whether it lives"])
def test_who_is_interrupted_leaves_neither_its_answer_nor_its_place(own_backend: RedisServer, idle: str) -> None:
    """As task queues and `signal.alarm` do it: an exception in the middle of waiting for the server."""
    run(
        own_backend,
        """
        class TimeLimit(BaseException):
            pass

        def limit(*_):
            raise TimeLimit

        hub.publish("chat:1", "one")
        signal.signal(signal.SIGALRM, limit)
        import redis
        from hubbub.redis import pool
        pool.IDLE, pool.PING_DEADLINE = IDLE, 10.0
        redis.Redis.from_url(sys.argv[1]).execute_command("CLIENT", "PAUSE", 1500, "ALL")
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            hub.publish("chat:1", "two")
        except TimeLimit:
            pass
        else:
            raise AssertionError("it was not interrupted")
        assert offset(hub.publish("chat:1", "three")) in (2, 3)
        assert hub.history("chat:1", reverse=True, limit=1).publications[0].data == "three"
        hub.stop()
        """.replace("IDLE, 10", f"{idle}, 10"),
        pool_max=1,
    )


@pytest.mark.parametrize("how", ["multiprocessing", "executor"])
def test_processes_of_the_standard_library(backend: RedisServer, how: str) -> None:
    program = {
        "multiprocessing": """
        import multiprocessing
        context = multiprocessing.get_context("fork")
        hub.publish("chat:1", 0)
        workers = [context.Process(target=hub.publish, args=("chat:1", number)) for number in range(1, 4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert offset(hub.publish("chat:1", 4)) == 5
        """,
        "executor": """
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        def publish(number):
            return offset(hub.publish("chat:1", number))

        hub.publish("chat:1", 0)
        with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("fork")) as workers:
            assert sorted(workers.map(publish, range(30))) == list(range(2, 32))
        """,
    }
    run(backend, program[how])
