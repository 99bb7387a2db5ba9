"""Mistakes at the start: ports, modules, and hubs that were never started."""

from __future__ import annotations

from tests.mistakes.mistake import InPage, InPython, InShell, Mistake

MISTAKES: list[Mistake] = [
    InShell(
        title="The port is taken",
        command="hubbub serve --port PORT",
        port="taken",
        sees="hubbub: port PORT of 127.0.0.1 is taken: choose another by --port (server.port), or 0 for a free one",
        means="Another server listens there, perhaps one of yours that still runs.",
        write="`hubbub serve --port 0` takes any free port, and prints it",
    ),
    InShell(
        title="A port that only root may have",
        command="hubbub serve --port PORT",
        port="low",
        sees="hubbub: port 80 needs privileges: choose one from 1024 on by --port (server.port)",
        means="Ports below 1024 belong to root.",
        write="`hubbub serve --port 8080`, with a proxy such as nginx in front",
    ),
    InShell(
        title="A command is misspelt",
        command="hubbub sreve",
        sees="hubbub: there is no command 'sreve'; the nearest is `hubbub serve` (`hubbub --help` tells more)",
        means="`hubbub --help` lists the commands.",
        write="`hubbub serve`",
    ),
    InShell(
        title="An option of a command is misspelt",
        command="hubbub serve --prot 9000",
        sees="hubbub serve: there is no option --prot; the nearest is --port (`hubbub serve --help` tells more)",
        means="Options are not guessed, and not abbreviated.",
        write="`hubbub serve --port 9000`",
    ),
    InShell(
        title="The file in place of the module",
        files={"main.py": "from hubbub import Hubbub\n\nhub = Hubbub()\n"},
        command="hubbub serve main.py",
        sees="hubbub: 'main.py' is a file; name the module and the hub, such as main:hub",
        means="Applications are named as Python imports them.",
        write="`hubbub serve main:hub`",
    ),
    InShell(
        title="A module that is not there",
        command="hubbub serve mian:hub",
        sees="hubbub: there is no module 'mian' in FOLDER nor among what is installed",
        means="Modules are looked for in the folder in which the command runs.",
        write="`hubbub serve main:hub`, in the folder of `main.py`",
    ),
    InShell(
        title="A hub that has another name",
        files={"main.py": "from hubbub import Hubbub\n\nhub = Hubbub()\n"},
        command="hubbub serve main:hbu",
        sees="hubbub: 'main:hbu': the module main has no 'hbu'; the nearest is hub",
        means="What stands behind the colon is a name in the module.",
        write="`hubbub serve main:hub`",
    ),
    InShell(
        title="The web application in place of the hub",
        files={"main.py": "from hubbub import Hubbub\n\nhub = Hubbub()\napp = hub.asgi()\n"},
        command="hubbub serve main:app",
        sees="hubbub: 'main:app' is a function; expected a Hubbub, such as main:hub",
        means="`hubbub serve` serves hubs; other applications have their own servers.",
        write="`hubbub serve main:hub`, or `uvicorn main:app`",
    ),
    InShell(
        title="Publishing where no server runs",
        command="hubbub pub news hello --url http://localhost:PORT --key secret",
        port="free",
        exit=1,
        sees="hubbub: no hubbub answers at http://localhost:PORT: start one with `hubbub serve`, or name it by --url",
        means="Nobody listens at that address.",
        write="`hubbub serve` first, or the right `--url`",
    ),
    InShell(
        title="The wrong key of the API",
        command="hubbub pub news hello --url http://localhost:PORT --key sercet",
        port="served",
        exit=1,
        sees="hubbub: http://localhost:PORT refuses the API key of --key: it is not that server's api.key",
        means="The server's key is its setting `api.key`.",
        write="`hubbub pub news hello --key secret`",
    ),
    InShell(
        title="A channel that the server does not know",
        command="hubbub pub nwes:1 hello --url http://localhost:PORT --key secret",
        port="served",
        exit=1,
        sees="hubbub: 'nwes:1': unknown channel: namespace 'nwes' is not declared; add [channels.nwes] (102)",
        means="What stands before the colon is a namespace, and namespaces are declared on the server.",
        write="`hubbub pub news:1 hello --key secret`, with `[channels.news]` in the server's `hubbub.toml`",
    ),
    InShell(
        title="A token without a secret to sign it with",
        command="hubbub token --user ann",
        sees=(
            "hubbub: nothing to sign with: set auth.hmac_secret (hubbub.toml, HUBBUB_AUTH_HMAC_SECRET), or give "
            "--secret-file"
        ),
        means="Tokens are signed, or anybody could make them.",
        write="`HUBBUB_AUTH_HMAC_SECRET=… hubbub token --user ann`, with the secret of the server",
    ),
    InPython(
        title="Publishing before the start",
        code="""\
hub = Hubbub()
await hub.publish("news", "hello")""",
        sees=(
            "hubbub.errors.HubbubError: the hub is not started: use `async with hub`, or FastAPI(lifespan=hub.lifespan)"
        ),
        means="A hub works between its start and its stop.",
        write="""\
hub = Hubbub()
async with hub:
    await hub.publish("news", "hello")""",
    ),
    InPython(
        title="Subscribing before the start",
        code="""\
hub = Hubbub()
async with hub.subscribe("news") as news:
    ...""",
        sees=(
            "hubbub.errors.HubbubError: the hub is not started: use `async with hub`, or FastAPI(lifespan=hub.lifespan)"
        ),
        means="A hub works between its start and its stop.",
        write="""\
hub = Hubbub()
async with hub, hub.subscribe("news") as news:
    ...""",
    ),
    InPage(
        title="An application is mounted without its lifespan",
        server="""\
from starlette.applications import Starlette
from starlette.routing import Mount

hub = Hubbub(auth={"anonymous": True})
app = Starlette(routes=[Mount("/", hub.asgi())])""",
        code="new Centrifuge(url).connect();",
        page="2 transport closed",
        sees=(
            "WARNING hubbub.core.node: a connection was refused: the hub is not started: FastAPI(lifespan=hub.lifespan)"
        ),
        means="Mounted applications are not started by the one that they are mounted in: nobody starts the hub.",
        write_server="""\
from starlette.applications import Starlette
from starlette.routing import Mount

hub = Hubbub(auth={"anonymous": True})
app = Starlette(routes=[Mount("/", hub.asgi())], lifespan=hub.lifespan)""",
    ),
]
