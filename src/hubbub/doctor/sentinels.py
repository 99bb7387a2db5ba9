"""The Sentinels of a URL: whether each answers, whether they agree, and whether they could make a failover.

Answers for: findings about them, of their own words. Refuses to know: the servers that they watch.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from hubbub.clock import Clock
from hubbub.doctor.findings import Finding
from hubbub.errors import BackendError
from hubbub.redis.dialing import dial
from hubbub.redis.topology import SENTINEL_PORT, endpoint_of
from hubbub.redis.wire import Wire

#: Seconds that a Sentinel has for its answers.
DEADLINE = 2.0

_SUBJECT = "sentinels"
_LOOK = "see whether it runs and can be reached, and correct its address in the URL"


class Answer(NamedTuple):
    """What one Sentinel says: the primary's address, or what is in the way; and the same of a failover."""

    where: str
    primary: str = ""
    trouble: str = ""
    no_quorum: str = ""


def is_sentinel(url: str) -> bool:
    """Whether a URL names Sentinels."""
    return urlsplit(url).scheme.endswith("+sentinel")


def addresses(url: str) -> tuple[list[str], str]:
    """A URL for each Sentinel, as for a server, and the name of what they watch. Raises ValueError."""
    parts = urlsplit(url)
    scheme = parts.scheme.partition("+")[0]
    options = dict(parse_qsl(parts.query))
    user, password = options.pop("sentinel_username", ""), options.pop("sentinel_password", "")
    access = f"{quote(user, '')}:{quote(password, '')}@" if password else ""
    kept = urlencode({name: value for name, value in options.items() if name.startswith("ssl_")})
    urls = []
    for host in parts.netloc.rpartition("@")[2].split(","):
        address = urlsplit(f"//{host}")
        where = host if address.port else f"{host}:{SENTINEL_PORT}"
        urls.append(f"{scheme}://{access}{where}{f'?{kept}' if kept else ''}")
    return urls, parts.path.strip("/").partition("/")[0]


async def sentinels(url: str, clock: Clock) -> list[Finding]:
    """Ask each of them."""
    urls, group = addresses(url)
    return judged(await asyncio.gather(*(_ask(each, group, clock) for each in urls)), group)


async def _ask(url: str, group: str, clock: Clock) -> Answer:
    endpoint = endpoint_of(url, client_name="hubbub-doctor")
    where = endpoint.name.partition("://")[2].rpartition("/")[0]
    try:
        wire = await dial(endpoint, clock)
    except BackendError as error:
        return Answer(where, trouble=str(error))
    try:
        async with asyncio.timeout(DEADLINE):
            return await _questions(wire, where, group)
    except TimeoutError:
        return Answer(where, trouble=f"no answer within {DEADLINE:g} seconds")
    except BackendError as error:
        return Answer(where, trouble=str(error))
    finally:
        wire.sever(ConnectionAbortedError("asked"))


async def _questions(wire: Wire, where: str, group: str) -> Answer:
    named = await wire.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", group)
    if not named:
        return Answer(where, trouble=f"it does not know {group!r}")
    try:
        await wire.ask("SENTINEL", "CKQUORUM", group)
    except BackendError as error:
        return Answer(where, f"{named[0].decode()}:{int(named[1])}", no_quorum=str(error))
    return Answer(where, f"{named[0].decode()}:{int(named[1])}")


def judged(answers: list[Answer], group: str) -> list[Finding]:
    """From what each said."""
    findings = [
        Finding(_SUBJECT, "warning", f"{answer.where}: {answer.trouble}", _LOOK) for answer in answers if answer.trouble
    ]
    named = sorted({answer.primary for answer in answers if answer.primary})
    if not named:
        seen = f"none of {len(answers)} names a primary for {group!r}"
        return [*findings, Finding(_SUBJECT, "wrong", seen, "correct the name at the end of the URL, or start them")]
    if len(named) > 1:
        findings.append(
            Finding(
                *(_SUBJECT, "warning", f"they name different primaries: {', '.join(named)}"),
                "ask again in a minute: during a failover it is so; else SENTINEL RESET on the one that is wrong",
            )
        )
    stuck = next((answer.no_quorum for answer in answers if answer.no_quorum), "")
    if stuck:
        fix = f"start more of them, or lower the quorum: SENTINEL SET {group} quorum N"
        findings.append(Finding(_SUBJECT, "wrong", f"no failover is possible: {stuck}", fix))
    elif len(answers) < 3:
        seen = f"the URL names {len(answers)}: when those are away, nobody knows the primary"
        findings.append(Finding(_SUBJECT, "warning", seen, "name at least three, on three machines"))
    else:
        naming = sum(1 for answer in answers if answer.primary)
        seen = f"{naming} of {len(answers)} name {', '.join(named)}; the quorum can be reached"
        findings.append(Finding(_SUBJECT, "ok", seen))
    return findings
