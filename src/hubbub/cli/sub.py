"""`hubbub sub`: print what is published in channels of a running server.

Answers for: one line a publication, for people or for programs; coming back for ever, from the last offset of each
channel; and saying so when something was missed. Refuses to know: how the server is reached.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from typing import Any, TypedDict

from hubbub.cli.arguments import Failure
from hubbub.cli.remote import Remote, Unreachable, add_arguments, server_of
from hubbub.cli.terminal import Colours, require_reader

EXAMPLE = """\
  hubbub sub room:42 --history 10
  hubbub sub 'room:*' --json | jq .data"""

#: Publications that a channel's history gives at most.
HISTORY_LIMIT = 300

#: Seconds of nothing, not even a heartbeat, after which the server is believed to be gone.
_SILENCE = 20.0

#: Seconds before the first attempt to come back, and the most of them; each is drawn from the upper half.
_BACKOFF = (0.5, 10.0)

#: What a terminal would obey, as escapes of JSON.
_CONTROLS = {code: f"\\u{code:04x}" for code in (*range(0x20), *range(0x7F, 0xA0))}


class _Place(TypedDict):
    """A position, as the server reads it."""

    offset: int
    epoch: str


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what it takes."""
    parser.add_argument("channels", nargs="+", metavar="CHANNEL", help="a channel, or a pattern with *, ? or [abc]")
    parser.add_argument("--exact", action="store_true", help="take *, ? and [ in names as they are")
    parser.add_argument(
        "--history", type=_history, default=0, metavar="N", help="begin with the last N of each channel"
    )
    parser.add_argument("--json", action="store_true", help="an object a line, as the server sends it")
    add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print until Ctrl-C."""
    server = server_of(options)
    reader = _Reader(options)
    wait, most = _BACKOFF
    while True:
        reader.is_astray = False
        try:
            _follow(server, reader)
            trouble = f"{server.url} has ended the stream"
        except Unreachable as error:
            if not reader.has_begun:
                raise
            trouble = str(error)
        if reader.is_astray:
            continue
        if reader.is_connected:
            reader.cut(trouble)
            wait = _BACKOFF[0]
        time.sleep(random.uniform(wait / 2, wait))
        wait = min(2 * wait, most)


def _history(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= HISTORY_LIMIT):
        raise argparse.ArgumentTypeError(f"{text[:80]!r}: expected 0 to {HISTORY_LIMIT}")
    return int(text)


def _follow(server: Remote, reader: _Reader) -> None:
    """Read one stream to its end, or until a channel that has lost its place has to be asked for anew."""
    with server.tail(reader.asked, _SILENCE) as lines:
        reader.connected(server.url)
        for line in lines:
            reader.line(line)
            if reader.is_astray:
                return


class _Reader:
    """What was asked for, how far each channel has been read, and the output."""

    def __init__(self, options: argparse.Namespace) -> None:
        def is_pattern(name: str) -> bool:
            return not options.exact and any(character in name for character in "*?[")

        self.has_begun = False  # something was read once
        self.is_connected = False
        self.is_astray = False  # a channel's place is lost, and the server leaves that channel
        self._channels = [name for name in options.channels if not is_pattern(name)]
        self._patterns = [name for name in options.channels if is_pattern(name)]
        self._history: int = options.history
        self._is_json: bool = options.json
        self._colours = Colours(sys.stdout)
        self._warnings = Colours(sys.stderr)
        self._places: dict[str, _Place] = {}  # of the last publication of each channel
        self._heads: dict[str, _Place] = {}  # where channels stood at the start, until that has been read
        self._returned: set[str] = set()  # channels of patterns of which nothing was read since the last cut

    @property
    def asked(self) -> dict[str, Any]:
        """What to ask the server for: what follows the last publication of each channel, or all that it keeps where
        that is not known.
        """
        since = {name: place for name, place in self._places.items() if name in self._channels}
        history = HISTORY_LIMIT if self.has_begun else self._history
        return {"channels": self._channels, "patterns": self._patterns, "history": history, "since": since}

    def connected(self, url: str) -> None:
        """The server answers."""
        if self.has_begun and not self.is_connected:
            self._say("connected again")
        elif not self.has_begun and sys.stderr.isatty():
            self._say(f"listening at {url}; Ctrl-C ends it")
        self.is_connected = True
        self._returned = set(self._places) - set(self._channels)

    def cut(self, why: str) -> None:
        """It does not, any more."""
        self.is_connected = False
        self._say(f"{why}; trying until it is back")

    def line(self, line: bytes) -> None:
        """A line of the stream."""
        if not line.strip():
            self._caught_up()
            return
        try:
            found = json.loads(line)
            channel = found.get("channel", "")
        except (ValueError, AttributeError):
            raise Failure("what the server sends is no line of JSON: is its version another than this one?") from None
        if "tail" in found:
            self._begin(found["tail"].get("channels", {}))
        elif "dropped" in found:
            self._say(f"{found['dropped']} publications were dropped: this reader is too slow for its patterns")
        elif found.get("lost"):
            self._heads.pop(channel, None)
            self.is_astray = self._places.pop(channel, None) is not None
            self._say(f"{channel}: some publications are missing here: the server does not keep them any more")
        elif channel:
            self._remember(channel, found)
            if not self._is_json:
                print(self._text(channel, found), flush=True)
        if self._is_json and not ("tail" in found or "end" in found):
            print(line.decode().rstrip(), flush=True)

    def _begin(self, channels: dict[str, Any]) -> None:
        self._heads = {name: head for name, head in channels.items() if "offset" in head and name not in self._places}
        if not self.has_begun and not self._history:
            self._caught_up()  # nothing of what is kept was asked for
        self.has_begun = True

    def _caught_up(self) -> None:
        """Everything up to the heads has been read; and a good moment to look whether somebody reads this."""
        self._places = {**self._heads, **self._places}
        self._heads = {}
        require_reader()

    def _remember(self, channel: str, found: dict[str, Any]) -> None:
        """Where the channel has been read to; tells of a hole in what a pattern matches."""
        offset, epoch = found.get("offset", 0), found.get("epoch", "")
        if not offset:
            return
        if channel in self._returned:
            self._returned.discard(channel)
            last = self._places[channel]
            if last["epoch"] != epoch or offset > last["offset"] + 1:
                self._say(f"{channel}: what came between offset {last['offset']} and {offset} was missed")
        self._places[channel] = {"offset": offset, "epoch": epoch}

    def _text(self, channel: str, found: dict[str, Any]) -> str:
        """For people: time, channel, offset, data, and who and what else."""
        offset = found.get("offset")
        data = found["data"] if "data" in found else {"b64data": found.get("b64data", "")}
        colours = self._colours
        words = [
            colours.dim(time.strftime("%H:%M:%S")),
            colours.channel(_clean(channel)),
            colours.dim(f"{offset}" if offset else "-"),
            _clean(json.dumps(data, ensure_ascii=False, separators=(",", ":"))),
        ]
        user = (found.get("info") or {}).get("user")
        words += [colours.dim(f"by {_clean(user)}")] if user else []
        words += [colours.dim(_clean(f"{name}={value}")) for name, value in (found.get("tags") or {}).items()]
        return "  ".join(words)

    def _say(self, text: str) -> None:
        print(self._warnings.warning(f"hubbub: {text}"), file=sys.stderr, flush=True)


def _clean(text: str) -> str:
    return text.translate(_CONTROLS)
