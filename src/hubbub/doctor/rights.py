"""What a user of Redis must be allowed for hubbub, and whether this one is.

Answers for: the list of commands, keys and channels; the ACL rule that grants them; and trying each without leaving
anything. Refuses to know: subscriptions, which need a connection of their own, and what the commands are for.

Nothing is changed by the trial: commands are said of a key that is not there, with arguments that are refused by a
server which allows the command. Where that cannot be (RPUSH), there is a key that holds a text, lives for some seconds,
and is deleted at the end: such a command is refused for that (WRONGTYPE).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Iterable
from typing import Final, Literal

from hubbub.doctor.findings import Finding
from hubbub.redis.pipeline import Pipeline
from hubbub.redis.sieve import PROBES
from hubbub.redis.wire import RedisError, Word

Side = Literal["broker", "presence"]

#: What each side says, its scripts included: a script may do no more than its user.
COMMANDS: Final[dict[Side, tuple[str, ...]]] = {
    "broker": (
        *("ping", "publish", "subscribe", "unsubscribe", "psubscribe", "punsubscribe", "eval", "evalsha"),
        *("set", "del", "expire", "pexpire", "hmget", "hset", "rpush", "ltrim", "lindex", "llen", "lrange"),
        "pubsub|numsub",
    ),
    "presence": (
        *("ping", "eval", "evalsha", "time", "del", "pexpire", "hget", "hset", "hdel", "hlen", "hincrby", "hgetall"),
        *("zadd", "zrem", "zcard", "zrange"),
    ),
}

#: What `hubbub doctor` reads besides. Without them it says what it could not read.
READING: Final = ("info", "config|get", "time")

#: Not tried here: what needs a connection that listens, see `listener`, and what only `hubbub.sync` says, which does
#: without it as well.
_ELSEWHERE: Final = frozenset({"subscribe", "unsubscribe", "psubscribe", "punsubscribe", "pubsub|numsub"})

#: Milliseconds that the key of the trial lives, should nobody delete it.
_LIFE: Final = 15_000

#: What follows the key in each command. To be refused: an odd number of values, and a text where a number has to be.
_ARGUMENTS: Final[dict[str, tuple[Word, ...]]] = {
    "expire": (_LIFE // 1000,),
    "pexpire": (_LIFE,),
    "hmget": ("e", "s"),
    "hget": ("e",),
    "hset": ("e", "x", "e"),
    "hdel": ("e",),
    "hincrby": ("e", "x"),
    "rpush": ("x",),
    "ltrim": (0, 0),
    "lindex": (0,),
    "lrange": (0, 0),
    "zadd": ("x", "x"),
    "zrem": ("x",),
    "zrange": (0, 0),
}


def channels_of(prefix: str) -> list[str]:
    """The patterns of channels that a user must be allowed."""
    return [f"{PROBES.decode()}*", f"{prefix}*"] if prefix else ["*"]


def rule(sides: Collection[Side], *, name: str, prefix: str, more: Iterable[str] = (), user: str = "<user>") -> str:
    """The command that allows a user all of it, and `more` commands."""
    words = [f"~{name}:*"]
    if "broker" in sides:
        words += [f"&{pattern}" for pattern in channels_of(prefix)]
    commands = [*(each for side in COMMANDS if side in sides for each in COMMANDS[side]), *more]
    words += [f"+{command}" for command in dict.fromkeys(commands)]
    return f"ACL SETUSER {user} {' '.join(words)}"


async def rights(pipeline: Pipeline, sides: Collection[Side], *, name: str, allow: str) -> list[Finding]:
    """Try every command on a key of our own, and say which are refused; `allow` is the command that lets the user.

    Raises BackendError when nobody answers.
    """
    refused: dict[str, None] = {}
    troubles: dict[str, None] = {}
    for side in COMMANDS:
        if side not in sides:
            continue
        key = f"{name}:{_FORMS[side].format(secrets.token_hex(8))}"
        for command, error in await _try_all(pipeline, side, key):
            if error.kind == "NOPERM":
                refused[_what(command, error, name)] = None
            elif "unknown command" in str(error):
                refused[command.upper()] = None
            elif error.kind not in _HARMLESS or command == "set":
                troubles[str(error)] = None
    findings = [Finding("writing", "wrong", f"a write is refused: {trouble}") for trouble in troubles]
    if refused:
        more = "; more was not tried" if "SET" in refused else ""
        findings.append(Finding("rights", "wrong", f"this user may not use {', '.join(refused)}{more}", allow))
    return findings or [Finding("rights", "ok", "all commands that hubbub uses are allowed")]


#: Kinds of errors of a server that would have done it with other arguments.
_HARMLESS: Final = frozenset({"WRONGTYPE", "NOSCRIPT", "ERR"})

#: Keys as the sides have them.
_FORMS: Final[dict[Side, str]] = {"broker": "n:{{doctor}}:{}", "presence": "p:{{doctor:{}}}:who"}


async def _try_all(pipeline: Pipeline, side: Side, key: str) -> list[tuple[str, RedisError]]:
    """The errors. If a key is needed and cannot be made, nothing else is tried: it might leave something."""
    if "set" in COMMANDS[side]:
        first = await _error(pipeline, "SET", key, "", "NX", "GET", "PX", _LIFE)
        if first is not None:
            return [("set", first)]
    said = [command for command in COMMANDS[side] if command not in _ELSEWHERE | {"set", "del"}]
    errors = await asyncio.gather(*(_error(pipeline, *_words(command, key)) for command in said))
    last = await _error(pipeline, "DEL", key)
    return [(command, error) for command, error in zip([*said, "del"], [*errors, last], strict=True) if error]


def _words(command: str, key: str) -> tuple[Word, ...]:
    match command:
        case "ping" | "time":
            return (command,)
        case "publish":
            return (command, PROBES + key.encode(), b"")
        case "eval":
            return (command, "return 1", 1, key)
        case "evalsha":
            return (command, "0" * 40, 1, key)
    return (command, key, *_ARGUMENTS.get(command, ()))


async def _error(pipeline: Pipeline, *words: Word) -> RedisError | None:
    try:
        await pipeline.call(*words)
    except RedisError as error:
        return error
    return None


def _what(command: str, error: RedisError, name: str) -> str:
    """What it is that the server refuses."""
    if is_about_names(error):
        return f"channels such as {PROBES.decode()}…" if command == "publish" else f"keys such as {name}:…"
    return command.upper()


def is_about_names(error: RedisError) -> bool:
    """Whether keys or channels are refused, and not the command: the rest of the words differs between versions."""
    return error.kind == "NOPERM" and " to access " in f"{error} "
