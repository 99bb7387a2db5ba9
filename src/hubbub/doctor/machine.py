"""The process that hubbub would be here: its Python, what is installed, and what the system lets it have.

Answers for: findings about these. Refuses to know: what is configured, but for how many connections are wanted.
"""

from __future__ import annotations

import importlib.util
import platform
import sys

from hubbub.doctor.findings import Finding
from hubbub.version import VERSION

if sys.platform != "win32":
    import resource

#: Descriptors that a server needs besides its clients: sockets it listens on, Redis, files, requests under way.
RESERVE = 64

#: Where nobody has raised the limit, it is 1,024 on most systems: enough to develop with.
FEW = 4096


def machine(*, max_connections: int, uses_redis: bool) -> list[Finding]:
    """Everything about this process. `max_connections` is the setting; 0 is no limit."""
    findings = [Finding("python", "ok", f"Python {platform.python_version()}, hubbub {VERSION}"), _event_loop()]
    if uses_redis:
        findings.append(_packages())
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        findings.append(descriptors(_unlimited(soft), _unlimited(hard), max_connections))
    return findings


def has_redis_packages() -> bool:
    """Whether what `hubbub[redis]` brings is installed."""
    return not _missing()


def _missing() -> list[str]:
    return [name for name in ("hiredis", "redis") if importlib.util.find_spec(name) is None]


def _packages() -> Finding:
    if missing := _missing():
        return Finding(
            "packages", "wrong", f"Redis needs {' and '.join(missing)}, not installed", "pip install 'hubbub[redis]'"
        )
    return Finding("packages", "ok", "hiredis and redis are installed")


def _event_loop() -> Finding:
    if importlib.util.find_spec("uvloop") is not None:
        return Finding("event loop", "ok", "uvloop is installed")
    if sys.platform == "win32":
        return Finding("event loop", "note", "asyncio's own: there is no uvloop for Windows")
    return Finding("event loop", "warning", "uvloop is not installed: the server takes more CPU", "pip install uvloop")


def _unlimited(limit: int) -> float:
    return float("inf") if sys.platform != "win32" and limit == resource.RLIM_INFINITY else limit


def descriptors(soft: float, hard: float, max_connections: int) -> Finding:
    """Judge how many files and sockets a process may have open. It is this shell's limit; a service has its own."""
    subject = "descriptors"
    seen = f"this shell lets a process have {_shown(soft)} files and sockets"
    if max_connections:
        wanted = max_connections + RESERVE
        if soft >= wanted:
            return Finding(subject, "ok", f"{seen}, client.max_connections is {max_connections:,}")
        return Finding(
            subject, "wrong", f"{seen}, and client.max_connections is {max_connections:,}", _raise(wanted, hard)
        )
    if soft <= FEW:
        return Finding(
            subject,
            "warning",
            f"{seen}: after about {max(int(soft) - RESERVE, 0):,} clients no more can connect",
            f"for many clients, {_raise(65_536, hard)}",
        )
    return Finding(subject, "ok", seen)


def _shown(limit: float) -> str:
    return "any number of" if limit == float("inf") else f"{int(limit):,}"


def _raise(wanted: int, hard: float) -> str:
    here = f"`ulimit -n {wanted}`" if hard >= wanted else f"`ulimit -n {wanted}` as root"
    return f"LimitNOFILE={wanted} in the systemd unit, --ulimit nofile={wanted} with Docker, or {here} before the start"
