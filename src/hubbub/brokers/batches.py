"""Many publishes as one question, which the server carries out in one step.

Answers for: cutting a list of publishes into batches, the words of a batch, and reading its reply: in their order, up
to the first one that is refused, and none twice however often the same batch is asked for; and what an application is
told when it fails. Refuses to know: what one publish is (`scripts`, `calls`), connections, and when to ask again.

Between two batches the server serves others, and each has a whole deadline: that is what their bounds are for. It keeps
no key of its own: what a batch leaves of itself has the form of a nonce's, of its first channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from hubbub.brokers import calls, scripts
from hubbub.brokers.base import StreamOptions
from hubbub.brokers.calls import NONCE_TTL, Call, Calls
from hubbub.errors import BackendError, PublishFailed
from hubbub.model import Publication, Published
from hubbub.redis.pipeline import Script
from hubbub.redis.wire import ConnectionLost, RedisError, Word

#: Publications of one batch at most. The server needs 20 to 40 microseconds for each, and does nothing else meanwhile.
MOST: Final = 64
#: Bytes of one batch at most, its keys and options included; what has more on its own goes alone.
MOST_BYTES: Final = 256 << 10

#: A channel, and what a node has admitted to it.
Each: TypeAlias = tuple[str, Publication, StreamOptions]

#: What a kept publish brings along: its keys, and its words.
_KEYS, _WORDS = 3, 9

#: KEYS: word (how many of this batch are done), and for each kept publication those of `scripts.PUBLISH`.
#: ARGV: milliseconds for the word, a letter for each publication (k: kept, l: live), and the words of each.
#: Answers: what PUBLISH does for the kept ones and any number for the live ones, up to the first error and with it.
#:
#: The word is written first: a server that takes no writes (READONLY, OOM, MISCONF) refuses all, before one is heard.
PUBLISH_MANY: Final = Script(
    "local function keep(KEYS, ARGV)\n"
    + scripts.PUBLISH.source
    + f"""end
local keys, words = {_KEYS}, {_WORDS}
"""
    + """
local before = tonumber(redis.call('SET', KEYS[1], 0, 'NX', 'GET', 'PX', ARGV[1]) or 0)
local replies, done, key, word = {}, 0, 2, 3
for kind in ARGV[2]:gmatch('.') do
  local is_done, reply = true, 0
  if kind == 'k' then
    is_done, reply = pcall(keep, {unpack(KEYS, key, key + keys - 1)}, {unpack(ARGV, word, word + words - 1)})
    key, word = key + keys, word + words
  else
    if done >= before then is_done, reply = pcall(redis.call, 'PUBLISH', ARGV[word], ARGV[word + 1]) end
    word = word + 2
  end
  if not is_done then
    replies[#replies + 1] = type(reply) == 'table' and reply or {err = reply}
    break
  end
  replies[#replies + 1] = reply
  done = done + 1
end
redis.call('SET', KEYS[1], math.max(done, before), 'PX', ARGV[1])
return replies
"""
)


class Batch(NamedTuple):
    """Publishes that are done together, and the question that does them."""

    parts: list[Call]
    call: Call


class Batches(Calls):
    """The questions of one application, of which some are many publishes at once."""

    def publish_many(self, publications: Sequence[Each]) -> Iterator[Batch]:
        """Keep and announce them in their order, none with an idempotency key. `published_many` reads the replies."""
        first, parts, size = "", list[Call](), 0
        for channel, publication, options in publications:
            assert not options.idempotency_key, "one publication alone has a key"
            part = self.publish(channel, publication, options)
            more = _size(part)
            if parts and (len(parts) == MOST or size + more > MOST_BYTES):
                yield self._batch(first, parts)
                parts, size = [], 0
            first = first if parts else channel
            parts.append(part)
            size += more
        if parts:
            yield self._batch(first, parts)

    def _batch(self, channel: str, parts: list[Call]) -> Batch:
        keys = [f"{self._name}:n:{{{channel}}}:{self._nonce()}"]
        kinds, words = "", list[Word]()
        for part in parts:
            keys += part.keys
            kinds += "l" if part.script is None else "k"
            words += part.words[1:] if part.script is None else part.words  # without PUBLISH
        return Batch(parts, Call((NONCE_TTL * 1000, kinds, *words), PUBLISH_MANY, keys, True, "nonce"))


def _size(part: Call) -> int:
    return sum(len(word) for word in (*part.keys, *part.words) if isinstance(word, bytes | str))


def published_many(
    batch: Batch, replies: Sequence[Any], *, is_first: bool
) -> tuple[list[Published], RedisError | None]:
    """What became of a batch: of those before the first one that was refused, and why that was.

    `is_first`: nothing came before the attempt that has these replies.
    """
    refused = replies[-1] if isinstance(replies[-1], RedisError) else None
    answered = replies if refused is None else replies[:-1]
    done = [
        calls.published(part, reply, is_first=is_first)
        for part, reply in zip(batch.parts, answered, strict=False)  # those after a refused one have none
    ]
    return done, refused


def many_failed(error: BackendError, *, done: int, asked: int, of: int) -> PublishFailed:
    """What an application is to know of a list of which `done` are published and the next `asked` have no answer, or of
    which the first was refused. Chain it to `error`.
    """
    is_in_doubt = isinstance(error, ConnectionLost) and error.was_sent
    if not done and not is_in_doubt:
        return calls.publish_failed(error, "nonce")
    rest = "publish the rest again"
    if is_in_doubt:
        rest = f"the next {asked} perhaps, and publishing these again may do it twice"
    return PublishFailed(f"{done} of {of} are published, {rest}: {error}", is_retry_safe=False)
