"""What is asked of Redis and Valkey, what their answers mean, and when to ask again. Pure.

Answers for: the names of keys, the words of each command, reading each reply, whether a failed attempt is followed by
another, and what an application is told in the end. Refuses to know: connections, clocks and waiting. The broker of
event loops (`redis`) and the blocking face (`hubbub.sync`) ask the same with it.

Keys, all under the application's name, all with a TTL, the channel in a hash tag for the day of Cluster:

    NAME:m:{CHANNEL}             meta of a stream: 30 days; unless published into, one minute, three while listened to
    NAME:l:{CHANNEL}             what is kept: the channel's TTL
    NAME:k:LENGTH:{CHANNEL}:KEY  what became of a publish with an idempotency key: 5 minutes (LENGTH is CHANNEL's)
    NAME:n:{CHANNEL}:NONCE       the same for one without: as long as it may be tried again
"""

from __future__ import annotations

import hashlib
import itertools
import os
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from hubbub.brokers import envelope, scripts
from hubbub.brokers.base import INTERCOM, Announcement, Notice, StreamOptions, is_nodes_own
from hubbub.brokers.envelope import Unreadable
from hubbub.errors import BackendError, PublishFailed
from hubbub.model import Position, Publication, Published
from hubbub.redis.pipeline import Script
from hubbub.redis.wire import RENEWING, ConnectionLost, OutboxFull, RedisError, Word
from hubbub.source import Known, Page

#: Seconds that every call has, its repetitions included, and between two attempts.
DEADLINE: Final = 5.0
PAUSE: Final = 0.1
#: Seconds that an idempotency key is remembered (B3), and what we use in its place: longer than a call and a failover.
KEY_TTL, NONCE_TTL = 300, 15
#: Seconds that a head outlives the last use of it, at least, if something was published; see `exchange.META_TTL`.
META_TTL: Final = 30 * 86400
#: The same for a stream into which nothing was ever published: while nobody here listens, and while somebody does.
ASKED_TTL, LISTENED_TTL = 60, 180

_LETTERS: Final = (string.ascii_letters.encode() * 5)[:256]

#: By what the server knows a repetition of a publish; nothing if it does not.
Once = Literal["", "key", "nonce"]


class Call(msgspec.Struct, frozen=True, gc=False):
    """One question to the server: a command, or a script with its keys. `is_repeatable`: it may be asked again."""

    words: tuple[Word, ...]
    script: Script | None = None
    keys: Sequence[str] = ()
    is_repeatable: bool = True
    once: Once = ""


class Calls:
    """The questions of one application, of which `name` begins every key and `prefix` every channel of PUBLISH.

    Any thread may ask. A forked child must make its own: what names its publishes is drawn here.
    """

    def __init__(self, name: str, prefix: str = "") -> None:
        self._name = name
        self._prefix = prefix
        # Names publishes and epochs. A number after random letters: randomness for each costs as much as all the rest.
        self._token = os.urandom(8).translate(_LETTERS).decode()
        self._numbers = itertools.count(1)

    # --- publishing

    def publish(self, channel: str, publication: Publication, options: StreamOptions) -> Call:
        """Keep (if so asked) and announce. `published` reads the reply."""
        key, target = options.idempotency_key, self.target(channel)
        if options.size > 0:
            return self._kept(channel, publication, options)
        message = envelope.live(publication)
        if not key:
            return Call(("PUBLISH", target, message), None, (), False)
        keys = (self._result_key(channel, key),)
        return Call((target, message, KEY_TTL * 1000), scripts.PUBLISH_LIVE, keys, True, "key")

    def _kept(self, channel: str, publication: Publication, options: StreamOptions) -> Call:
        nonce, key = self._nonce(), options.idempotency_key
        words = (
            envelope.body(publication),
            options.size,
            int(options.ttl * 1000),
            self.target(channel),
            nonce,
            max(META_TTL, int(options.ttl) + ASKED_TTL),
            (KEY_TTL if key else NONCE_TTL) * 1000,
            f"{options.version:020}" if options.version else "",
            options.version_epoch,
        )
        result = self._result_key(channel, key) if key else f"{self._name}:n:{{{channel}}}:{nonce}"
        keys = (self._meta(channel), self._list(channel), result)
        return Call(words, scripts.PUBLISH, keys, True, "key" if key else "nonce")

    def notify(self, channel: str, said: Notice | Announcement) -> Call:
        """Announce a notice, or what has its offset from elsewhere."""
        message = envelope.notice(said) if isinstance(said, Notice) else envelope.kept(*said)
        return Call(("PUBLISH", self.target(channel), message), is_repeatable=False)

    # --- streams

    def heads(self, channels: Sequence[str], ttls: Iterable[int]) -> Call:
        """Where they stand; `ttls` are for those that nothing was published into. `heads` reads the reply."""
        return Call((self._nonce(), META_TTL, *ttls), scripts.HEADS, [self._meta(channel) for channel in channels])

    def read(
        self, channel: str, after: int, limit: int, max_bytes: int, *, reverse: bool = False, ttl: int = ASKED_TTL
    ) -> Call:
        """A page and the head, of the same instant. `page` reads the reply."""
        words = (after, max(limit, 0), max_bytes, int(reverse), self._nonce(), ttl, META_TTL)
        return Call(words, scripts.READ, (self._meta(channel), self._list(channel)))

    def altered(self, known: Mapping[str, Known]) -> Call:
        """Which of these are not what is held. The reply is 1 or 0 for each."""
        keys = [key for channel in known for key in (self._meta(channel), self._list(channel))]
        words: list[Word] = []
        for epoch, publication in known.values():
            digest = hashlib.sha1(envelope.body(publication), usedforsecurity=False)  # the only one that Lua has here
            words += (epoch, publication.offset, digest.hexdigest())
        return Call(tuple(words), scripts.ALTERED, keys)

    def remove_history(self, channel: str) -> Call:
        """Let go of what is kept."""
        return Call(("DEL", self._list(channel)))

    def replace_epoch(self, channel: str, epoch: str, ttl: int) -> Call:
        """Another epoch for `epoch`, if it is still that one. The reply is a position's parts."""
        keys = (self._meta(channel), self._list(channel))
        return Call((epoch, self._nonce(), ttl, META_TTL), scripts.REPLACE, keys)

    # --- names

    def nodes(self) -> Call:
        """How many nodes hear each other. The reply is a pair: a name, and the number."""
        return Call(("PUBSUB", "NUMSUB", self.target(INTERCOM)))

    def target(self, channel: str) -> str:
        """What a channel is called in PUBLISH and SUBSCRIBE. Pub/sub is one for all who use the server: what is the
        nodes' own has the application's name in it, and the rest is for everybody to hear.
        """
        return f"{self._prefix}{channel}:{self._name}" if is_nodes_own(channel) else self._prefix + channel

    def channel(self, target: str) -> str:
        """Which channel is called so. Of another application's nodes, it is none that anybody here listens to."""
        channel = target[len(self._prefix) :]
        return channel.removesuffix(f":{self._name}") if channel < " " else channel

    def _meta(self, channel: str) -> str:
        return f"{self._name}:m:{{{channel}}}"

    def _list(self, channel: str) -> str:
        return f"{self._name}:l:{{{channel}}}"

    def _result_key(self, channel: str, key: str) -> str:
        # With the length, or a brace in a channel or key would make two of them one.
        return f"{self._name}:k:{len(channel)}:{{{channel}}}:{key}"

    def _nonce(self) -> str:
        return f"{self._token}{next(self._numbers)}"


# --- reading replies


_NOWHERE: Final = Published()


def published(call: Call, reply: Any, *, is_first: bool) -> Published:
    """What became of a publish. `is_first`: nothing came before the attempt that has this reply."""
    if call.script is None:
        return _NOWHERE
    if call.script is scripts.PUBLISH_LIVE:
        return Published() if reply is None else _at(reply, is_duplicate=True)
    at, is_duplicate = reply
    # What one of our own attempts left there is no duplicate.
    return _at(at, is_duplicate=bool(is_duplicate) and (call.once == "key" or is_first))


def _at(at: bytes, *, is_duplicate: bool) -> Published:
    """What a script said: "epoch offset", or nothing for what has no offset."""
    epoch, _, offset = at.partition(b" ")
    return Published(Position(epoch.decode(), int(offset)) if at else None, None, is_duplicate)


def heads(reply: Sequence[Any]) -> list[Position]:
    """Where the channels stand, in the order in which they were asked for."""
    return [Position(epoch.decode(), top) for epoch, top in zip(reply[::2], reply[1::2], strict=True)]


def page(channel: str, reply: Sequence[Any], *, reverse: bool, refuse: Callable[[str, Unreadable], object]) -> Page:
    """A page and the head. What a newer node wrote differently is `refuse`d: to this one it is not kept, and a page
    never goes over it. Raises BackendError where that leaves nothing.
    """
    epoch, top, start, bodies = reply
    offsets = range(start, start - len(bodies), -1) if reverse else range(start, start + len(bodies))
    publications: list[Publication] = []
    for body, offset in zip(bodies, offsets, strict=True):
        try:
            publications.append(envelope.of_body(body, offset))
        except Unreadable as error:
            refuse(channel, error)
            if publications:
                break
    if bodies and not publications:
        raise BackendError(f"what is kept in {channel!r} cannot be read: it is of a newer version, upgrade this node")
    return Page(publications, Position(epoch.decode(), top))


#: Why a message or what is kept is dropped, by an Unreadable's reason.
WHY: Final = {
    "newer": "it is a frame of a newer version, upgrade this node",
    "broken": "it begins like a frame of ours and is none",
    "too_large": f"it is over {envelope.MAX_BYTES} bytes, publish a reference instead",
    "not_text": "it is neither JSON nor UTF-8 text, publish one of these",
}


# --- when it fails


def go_on(error: ConnectionLost | RedisError, *, was_sent: bool, is_repeatable: bool, is_late: bool) -> bool:
    """An attempt failed: returns where there is to be another one, and whether any so far may have been carried out.

    `was_sent` is what the attempt before returned. Raises the error where this was the last attempt; a ConnectionLost
    whose `was_sent` speaks for all of them.
    """
    if isinstance(error, ConnectionLost):
        was_sent = was_sent or error.was_sent
        is_final = (was_sent and not is_repeatable) or isinstance(error, OutboxFull)
    else:
        is_final = error.kind not in RENEWING
    if is_final or is_late:
        if was_sent:
            raise ConnectionLost(str(error), was_sent=True) from error
        raise error
    return was_sent


def publish_failed(error: BackendError, once: Once) -> PublishFailed:
    """What an application is to know of a publish that failed. Chain it to `error`."""
    if not (isinstance(error, ConnectionLost) and error.was_sent):
        return PublishFailed(f"not published, publish again: {error}", is_retry_safe=True)
    if once == "key":
        text = f"perhaps published, publish again with the same idempotency key: {error}"
        return PublishFailed(text, is_retry_safe=True)
    text = f"perhaps published, and publishing again may do it twice (give an idempotency key): {error}"
    return PublishFailed(text, is_retry_safe=False)
