"""Several processes on one address: a small one that serves nobody keeps as many that do.

Answers for: starting them, and what one is told when it starts; starting again whoever dies; replacing them one by
one; a start that hangs; ending with all of them. Refuses to know: applications, event loops, and what is served.

The supervisor holds the address and one line to each worker, a pair of sockets. A worker says `READY` on it and is told
on it when to leave. Signals are the supervisor's alone, since systems and terminals send them to everybody, and whoever
is asked twice takes that for haste. A line that ends means that the supervisor is gone: the worker drains.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple, NoReturn, Self

import msgspec

from hubbub.errors import ConfigurationError
from hubbub.listening import Place
from hubbub.redis.backoff import Backoff
from hubbub.settings import Server as ServerSettings

log = logging.getLogger(__name__)

#: What a process is told by whoever started it. It is no setting, and nobody inherits it.
VARIABLE = "HUBBUB_SERVE_AS"

#: What a worker says once it listens, and what it is told: to drain, to drain because its successor listens, to hurry.
READY, DRAIN, RELIEVED, HURRY = b"r", b"d", b"s", b"h"

#: Seconds until a worker that still does not listen is killed. Not a setting, for it only tells a start that hangs from
#: one that is slow: those that load much take a minute, the old worker serves meanwhile, and who does not want to wait
#: for it sends SIGHUP again, or SIGTERM.
START = 300.0

#: Seconds after its drain time until a worker is killed: goodbyes, last requests and handlers take some.
GRACE = 30.0

#: Seconds until one is killed that was told to leave before it listened: it serves nobody.
PROMPT = 5.0

#: Seconds: how long whoever died may have to wait for its successor, at first and at most.
FIRST, CAP = 1.0, 30.0

#: Seconds that a worker has served after which its death is the first of its kind.
STEADY = 60.0

_HEARD = ("SIGTERM", "SIGINT", "SIGHUP", "SIGCHLD")

#: They come to everybody of a terminal, and are nothing to a worker.
_NOT_FOR_WORKERS = ("SIGINT", "SIGHUP")


class Plan(msgspec.Struct, frozen=True, tag="supervisor"):
    """What a supervisor is told."""

    server: ServerSettings


class Post(msgspec.Struct, frozen=True, tag="worker"):
    """What a worker is told: which it is, and the descriptors that it inherits."""

    number: int
    sockets: tuple[int, ...]
    line: int


def role() -> Plan | Post | None:
    """What this process was started as; None for one that somebody just started. It is told once only."""
    text = os.environ.pop(VARIABLE, None)
    if text is None:
        return None
    try:
        told: Plan | Post = msgspec.json.decode(text, type=Plan | Post)
    except msgspec.DecodeError:
        raise ConfigurationError(f"{VARIABLE} is for `hubbub serve` itself: unset it") from None
    if isinstance(told, Post):
        for descriptor in (*told.sockets, told.line):
            os.set_inheritable(descriptor, False)  # what the application starts has nothing to do with them
        for number in _numbers(_NOT_FOR_WORKERS):
            signal.signal(number, lambda number, frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _numbers(_NOT_FOR_WORKERS))
    return told


class Beginning(NamedTuple):
    """How this process was started, before an application could change any of it."""

    folder: str
    environment: dict[str, str]

    @classmethod
    def now(cls) -> Self:
        """As it is at this moment."""
        try:
            folder = os.getcwd()
        except FileNotFoundError:  # somebody has removed it, which is no reason not to serve
            folder = "."
        return cls(folder, dict(os.environ))

    def again(self, plan: Plan) -> NoReturn:
        """Start over as a supervisor: the same process and the same command, without whatever it has loaded.

        Raises ConfigurationError on systems that cannot.
        """
        if os.name != "posix":
            raise ConfigurationError("server.workers (--workers): not on this system; start processes on several ports")
        sys.stdout.flush()
        sys.stderr.flush()
        os.chdir(self.folder)
        os.execve(sys.executable, _command(), {**self.environment, VARIABLE: msgspec.json.encode(plan).decode()})


def _command() -> list[str]:
    return [sys.executable, *sys.orig_argv[1:]]


def _numbers(names: tuple[str, ...]) -> list[signal.Signals]:
    """By name, for not all systems have all of them."""
    return [signal.Signals[name] for name in names]


def _has_terminal() -> bool:
    """Whether somebody may sit in front of this. A terminal that was closed is none."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


class Worker:
    """A process, and our end of the line to it. Raises OSError where it cannot be started."""

    def __init__(self, number: int, sockets: list[socket.socket]) -> None:
        self.name = f"worker {number}"
        self.is_ready = False
        self.is_late = False  # it took so long to listen that it was killed
        self.is_killed = False
        self.is_unwanted = False  # it was about to follow, and another one is to do that
        self.began = time.monotonic()
        self.deadline = 0.0  # by when it has to have gone; 0 for one that may stay
        self.line, theirs = socket.socketpair()
        self.line.setblocking(False)
        post = Post(number, tuple(each.fileno() for each in sockets), theirs.fileno())
        environment = {**os.environ, VARIABLE: msgspec.json.encode(post).decode()}
        # What is blocked when it starts is blocked in it, until it has something better to do with it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _numbers(_NOT_FOR_WORKERS))
        try:
            self.process = subprocess.Popen(_command(), env=environment, pass_fds=[*post.sockets, post.line])
        except OSError:
            self.line.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _numbers(_NOT_FOR_WORKERS))
            theirs.close()

    def order(self, what: bytes, deadline: float) -> None:
        """Tell it to leave, until `deadline`; who has been told already gets no more time."""
        if not self.is_ready:
            self.process.terminate()  # it may not listen to us for a while
            deadline = min(deadline, time.monotonic() + PROMPT)
        self.deadline = min(deadline, self.deadline or deadline)
        try:
            self.line.send(what)
        except OSError:
            pass  # it is leaving without that

    def kill(self) -> None:
        """End it, and look again in a while whether it has."""
        self.is_killed = True
        self.process.kill()
        self.deadline = time.monotonic() + GRACE

    @property
    def start_by(self) -> float:
        """When it has to listen; 0 for one that does, or that need not any more."""
        return 0.0 if self.is_ready or self.deadline else self.began + START

    @property
    def end(self) -> str:
        """How it ended."""
        if self.is_late:
            return f"did not listen within {START:g} seconds and was killed (does an import wait, or a database?)"
        code = self.process.returncode
        known = {each.value: each.name for each in signal.Signals}
        how = f"ended with exit code {code}" if code >= 0 else f"was ended by {known.get(-code, f'signal {-code}')}"
        return how if self.is_ready else f"{how} before it listened"


class Seat:
    """One of the places for workers: who is in it, who is to follow, or when."""

    def __init__(self, number: int, sockets: list[socket.socket]) -> None:
        self.number = number
        self.sockets = sockets
        self.worker: Worker | None = None
        self.successor: Worker | None = None
        self.due = 0.0  # when the next one is to be started; 0 for not at all
        self.backoff = Backoff(first=FIRST, cap=CAP)

    def clear(self, sockets: list[socket.socket]) -> None:
        """Let nobody wait for this one's sockets any more; `sockets` are for whoever comes next."""
        for each in self.sockets:
            each.close()
        self.sockets = sockets


class Supervisor:
    """Keeps `server.workers` processes until a signal comes. `on_ready` is told the address once all of them listen.

    SIGTERM drains them all, and so does a terminal that is closed; SIGINT and a second signal take no time over it;
    SIGHUP replaces them, one after the other. Who does not listen within START seconds is killed: at the beginning
    that is the end of all, later only of the replacement. Raises ConfigurationError where the address is taken.
    """

    def __init__(self, server: ServerSettings, *, on_ready: Callable[[str], None]) -> None:
        self._server = server
        self._on_ready = on_ready
        self._place = Place(server)
        self._seats = [Seat(number, self._place.share()) for number in range(1, server.workers + 1)]
        self._workers: dict[Worker, Seat] = {}
        self._to_replace: deque[Seat] = deque()
        self._signals: deque[int] = deque()
        self._selector = selectors.DefaultSelector()
        self._has_begun = False  # all have listened at one time
        self._is_ending = False
        self._code = 0
        # `nohup` lets signals of terminals be ignored: whoever uses it wants this to stay.
        self._ends_with_terminal = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN and _has_terminal()

    def run(self) -> int:
        """Until all workers have ended; returns the exit code."""
        with self._hearing():
            self._seat(self._seats[0])  # alone: what is wrong with all of them is said once
            while self._workers or not self._is_ending:
                for key, _ in self._selector.select(self._pause()):
                    key.data()
                while self._signals:
                    self._heed(self._signals.popleft())
                for worker in list(self._workers):
                    if worker.process.poll() is not None:
                        self._gone(worker)
                self._look_at_clock()
        return self._code

    # signals --------------------------------------------------------------------------------------------------------

    @contextmanager
    def _hearing(self) -> Iterator[None]:
        """Inside, a signal ends the pause."""
        ear, bell = socket.socketpair()
        ear.setblocking(False)
        bell.setblocking(False)
        with ear, bell:
            before = {number: signal.signal(number, self._note) for number in _numbers(_HEARD)}
            signal.set_wakeup_fd(bell.fileno(), warn_on_full_buffer=False)
            self._selector.register(ear, selectors.EVENT_READ, lambda: ear.recv(4096))
            try:
                yield
            finally:
                signal.set_wakeup_fd(-1)
                for number, handler in before.items():
                    signal.signal(number, handler)
                self._selector.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _heed(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if number == signal.SIGINT:
                self._code = 130
            self._end(HURRY if self._is_ending or number == signal.SIGINT else DRAIN)
        elif number == signal.SIGHUP and not self._is_ending:
            if self._ends_with_terminal and not _has_terminal():
                self._end(DRAIN)
            elif self._has_begun:
                self._replace_all()
            else:
                log.warning("SIGHUP: the workers are just being started")

    def _end(self, order: bytes) -> None:
        """Free the address, and send everybody away."""
        self._is_ending = True
        self._place.close()
        for seat in self._seats:
            seat.clear([])
            seat.due = 0.0
        deadline = time.monotonic() + GRACE + (self._server.drain_time if order == DRAIN else 0.0)
        for worker in self._workers:
            worker.order(order, deadline)

    # workers --------------------------------------------------------------------------------------------------------

    def _start(self, seat: Seat) -> Worker | None:
        """One more process; None where the system has none."""
        try:
            worker = Worker(seat.number, seat.sockets)
        except OSError as error:
            log.error("worker %d cannot be started: %s", seat.number, error.strerror)
            return None
        self._workers[worker] = seat
        self._selector.register(worker.line, selectors.EVENT_READ, lambda: self._hear(worker))
        return worker

    def _seat(self, seat: Seat) -> None:
        seat.due = 0.0
        seat.worker = self._start(seat)
        if seat.worker is None and self._has_begun:
            self._vacate(seat)
        elif seat.worker is None:
            self._give_up(1)

    def _hear(self, worker: Worker) -> None:
        """Something came over its line."""
        try:
            said = worker.line.recv(16)
        except OSError:
            said = b""
        if not said:
            self._selector.unregister(worker.line)
        elif not self._is_ending and worker.deadline == 0.0:
            worker.is_ready = True
            self._listens(worker, self._workers[worker])

    def _listens(self, worker: Worker, seat: Seat) -> None:
        if worker is seat.successor:
            old, seat.worker, seat.successor = seat.worker, worker, None
            if old is None:
                self._replace_next()
            else:
                old.order(RELIEVED, time.monotonic() + self._server.drain_time + GRACE)
        if self._has_begun:
            log.info("%s listens", worker.name)
            return
        for empty in self._seats:
            if empty.worker is None and not self._is_ending:
                self._seat(empty)
        if all(each.worker is not None and each.worker.is_ready for each in self._seats):
            self._has_begun = True
            self._on_ready(self._place.url)

    def _gone(self, worker: Worker) -> None:
        """It has ended."""
        seat = self._workers.pop(worker)
        if worker.line in self._selector.get_map():
            self._selector.unregister(worker.line)
        worker.line.close()
        if worker.deadline and worker.is_ready and worker.process.returncode and not worker.is_killed:
            log.warning("%s (process %d) %s while it drained", worker.name, worker.process.pid, worker.end)
        if self._is_ending:
            return
        if worker is seat.worker:
            seat.worker = None
            self._died(worker, seat)
        elif worker is seat.successor:
            seat.successor = None
            if not worker.is_unwanted:
                self._stop_replacing(f"the next {worker.name} {worker.end}")
            if seat.worker is None:
                self._vacate(seat)
            self._replace_next()
        else:
            log.info("%s has been replaced", worker.name)
            self._replace_next()

    def _died(self, worker: Worker, seat: Seat) -> None:
        """Nobody had told it to leave."""
        if not self._has_begun:
            if worker.process.returncode not in (1, 2):  # with those it has said why
                log.error("%s %s", worker.name, worker.end)
            self._give_up(worker.process.returncode)
            return
        log.warning("%s (process %d) %s", worker.name, worker.process.pid, worker.end)
        if worker.is_ready and time.monotonic() - worker.began > STEADY:
            seat.backoff.reset()
        if seat.successor is None:  # who is about to listen, and then takes over what waits
            self._vacate(seat)

    def _give_up(self, code: int) -> None:
        """What keeps one from starting keeps all."""
        self._end(HURRY)
        self._code = 2 if code == 2 else 1

    def _vacate(self, seat: Seat) -> None:
        """Leave the seat to others for a while, and what would have come to it, too."""
        seat.clear(self._place.share())
        delay = seat.backoff.next()
        seat.due = time.monotonic() + delay
        log.warning("worker %d is started again in %.1f seconds", seat.number, delay)

    def _replace_all(self) -> None:
        """One after the other. Who is about to listen may have begun with what is old by now, or hang: it is not
        waited for.
        """
        self._to_replace = deque(self._seats)
        for seat in self._seats:
            if seat.successor is not None:
                log.info("SIGHUP: the next %s, which does not listen yet, is started anew", seat.successor.name)
                seat.successor.is_unwanted = True
                seat.successor.order(HURRY, time.monotonic() + PROMPT)
        self._replace_next()

    def _stop_replacing(self, why: str) -> None:
        """The others stay what they are."""
        self._to_replace.clear()
        log.error("%s: no more are replaced until the next SIGHUP", why)

    def _replace_next(self) -> None:
        """One after the other: not before the last one has left."""
        if any(seat.successor for seat in self._seats) or any(worker.deadline for worker in self._workers):
            return
        while self._to_replace:
            seat = self._to_replace.popleft()
            if seat.worker is not None:  # else whoever is started next is new as well
                seat.successor = self._start(seat)
                if seat.successor is None:
                    self._stop_replacing(f"the next worker {seat.number} cannot be started")
                return

    # the clock ------------------------------------------------------------------------------------------------------

    def _pause(self) -> float | None:
        """Seconds until there is something to do; None where only signals and lines can bring it."""
        moments = [seat.due for seat in self._seats if seat.due]
        moments += [moment for worker in self._workers if (moment := worker.deadline or worker.start_by)]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _look_at_clock(self) -> None:
        now = time.monotonic()
        for seat in self._seats:
            if seat.due and seat.due <= now:
                self._seat(seat)
        for worker in self._workers:
            if worker.deadline and worker.deadline <= now:
                log.error("%s (process %d) does not end: it is killed", worker.name, worker.process.pid)
                worker.kill()
            elif worker.start_by and worker.start_by <= now:
                worker.is_late = True
                worker.kill()
