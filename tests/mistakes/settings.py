"""Mistakes in settings: arguments, files, variables, and what the command line makes of them."""

from __future__ import annotations

from tests.mistakes.mistake import InPython, InShell, Mistake

MISTAKES: list[Mistake] = [
    InPython(
        title="An option of `Hubbub(…)` is misspelt",
        code='hub = Hubbub(server={"prot": 9000})',
        sees=(
            "hubbub.errors.ConfigurationError: argument: unknown setting server.prot; the nearest known one is "
            "server.port"
        ),
        means="Nothing is ignored silently: an option that nobody knows is an error that names the nearest one.",
        write='hub = Hubbub(server={"port": 9000})',
    ),
    InPython(
        title="A section of `Hubbub(…)` is misspelt",
        code='hub = Hubbub(chanels={"news": {"delivery": "recent"}})',
        sees=(
            "hubbub.errors.ConfigurationError: argument: unknown setting chanels.news.delivery; the nearest known "
            "one is channels.default.delivery"
        ),
        means="The sections are server, broker, auth, api, client and channels.",
        write='hub = Hubbub(channels={"news": {"delivery": "recent"}})',
    ),
    InPython(
        title="A namespace without a table",
        code='hub = Hubbub(channels={"news": None})',
        sees=(
            "hubbub.errors.ConfigurationError: argument: channels.news: expected a table of a namespace, such as "
            '{"news": {}} for the default rules, found None'
        ),
        means="An empty table declares a namespace, as `[channels.news]` with no lines does in `hubbub.toml`.",
        write='hub = Hubbub(channels={"news": {}})',
    ),
    InPython(
        title="An option of a section stands outside of it",
        code="hub = Hubbub(port=9000)",
        sees="hubbub.errors.ConfigurationError: argument: unknown setting port; the nearest known one is server.port",
        means="Options are grouped as in `hubbub.toml`.",
        write='hub = Hubbub(server={"port": 9000})',
    ),
    InPython(
        title="A channel option has a value that does not exist",
        code='hub = Hubbub(channels={"news": {"subscribe": "everyone"}})',
        sees=(
            "hubbub.errors.ConfigurationError: argument: channels.news.subscribe = 'everyone': expected one of "
            "anyone, user, owner, token, nobody"
        ),
        means="Each option has its own words; the line lists them.",
        write='hub = Hubbub(channels={"news": {"subscribe": "anyone"}})',
    ),
    InPython(
        title="A duration that cannot be read",
        code='hub = Hubbub(channels={"news": {"delivery": "recent", "history_ttl": "5 minutes"}})',
        sees=(
            "hubbub.errors.ConfigurationError: argument: channels.news.history_ttl = '5 minutes': expected "
            'seconds, or a duration such as "500ms", "30s", "5m", "2h" or "1d"'
        ),
        means="Durations are seconds, or a number with one unit.",
        write='hub = Hubbub(channels={"news": {"delivery": "recent", "history_ttl": "5m"}})',
    ),
    InPython(
        title='`delivery="durable"` without a store',
        code='hub = Hubbub(channels={"orders": {"delivery": "durable"}})',
        sees=(
            "hubbub.errors.ConfigurationError: argument: channels.orders.delivery = 'durable': needs a store: "
            "store.url = 'sqlite:///app.db' (HUBBUB_STORE_URL)"
        ),
        means="What a durable channel keeps is written into a file, or into PostgreSQL.",
        write='hub = Hubbub(store="sqlite:///app.db", channels={"orders": {"delivery": "durable"}})',
    ),
    InPython(
        title="A broker that nobody knows",
        code='hub = Hubbub("kafka://localhost")',
        sees=(
            "hubbub.errors.ConfigurationError: argument: broker.url: expected memory://, redis://, rediss://, unix://, "
            "redis+sentinel://; found the scheme 'kafka'"
        ),
        means="Publications travel in this process, or through Redis or Valkey.",
        write="hub = Hubbub()",
    ),
    InPython(
        title="Join and leave messages without presence",
        code='hub = Hubbub(channels={"room": {"join_leave": "always"}})',
        sees="hubbub.errors.ConfigurationError: argument: channels.room: join_leave = 'always' needs presence = true",
        means="Who joined and left is told where somebody counts who is there.",
        write='hub = Hubbub(channels={"room": {"join_leave": "always", "presence": True}})',
    ),
    InPython(
        title="A personal channel without its namespace",
        code='hub = Hubbub(auth={"personal_channel": "user:{user}"})',
        sees=(
            "hubbub.errors.ConfigurationError: argument: auth.personal_channel = 'user:{user}': its namespace is "
            "not declared; add [channels.user]"
        ),
        means="Channels with a colon belong to a namespace, and namespaces are declared.",
        write='hub = Hubbub(auth={"personal_channel": "user:{user}"}, channels={"user": {"delivery": "recent"}})',
    ),
    InShell(
        title="A key of `hubbub.toml` is misspelt",
        files={"hubbub.toml": '[channels.chat]\ndelivrey = "recent"\n'},
        command="hubbub serve",
        sees=(
            "hubbub: hubbub.toml: unknown setting channels.chat.delivrey; the nearest known one is "
            "channels.chat.delivery"
        ),
        means="The file is checked whole before anything starts.",
        write='`delivery = "recent"`',
    ),
    InShell(
        title="A namespace stands outside of `channels`",
        files={"hubbub.toml": '[chat]\ndelivery = "recent"\n'},
        command="hubbub serve",
        sees="hubbub: hubbub.toml: unknown setting [chat]; the nearest known one is [channels.<namespace>]",
        means="Namespaces are tables inside `channels`.",
        write="`[channels.chat]`",
    ),
    InShell(
        title="A value of the wrong kind",
        files={"hubbub.toml": '[server]\nport = "eight thousand"\n'},
        command="hubbub serve",
        sees="hubbub: hubbub.toml: server.port = 'eight thousand': expected an integer, found a string",
        means="The line says what was found and what is expected.",
        write="`port = 8000`",
    ),
    InShell(
        title="A file that is not TOML",
        files={"hubbub.toml": "[server]\nport: 8000\n"},
        command="hubbub serve",
        sees="hubbub: hubbub.toml, line 2, column 5: not TOML: Expected '=' after a key in a key/value pair",
        means="YAML's colon, perhaps? The line and the column say where to look.",
        write="`port = 8000`",
    ),
    InShell(
        title="A configuration file that is not there",
        command="hubbub serve --config hubub.toml",
        sees="hubbub: hubub.toml: cannot be read: No such file or directory",
        means="The path is relative to the folder in which the command runs.",
        write="`hubbub serve --config hubbub.toml`, or nothing: `hubbub.toml` is read where it lies",
    ),
    InShell(
        title="An environment variable is misspelt",
        environment={"HUBBUB_SERVER_PROT": "9000"},
        command="hubbub serve",
        sees=(
            "hubbub: HUBBUB_SERVER_PROT: unknown setting server.prot; the nearest known one is HUBBUB_SERVER_PORT "
            "(server.port)"
        ),
        means="Every variable that begins with `HUBBUB_` is a setting.",
        write="`HUBBUB_SERVER_PORT=9000`",
    ),
    InShell(
        title="A variable that names a section",
        environment={"HUBBUB_STORE": "sqlite:///app.db"},
        command="hubbub serve",
        sees="hubbub: HUBBUB_STORE: names a section and no setting of it, such as HUBBUB_STORE_URL",
        means="In Python `store=` is enough for its `url`; a variable names the section and the key.",
        write="`HUBBUB_STORE_URL=sqlite:///app.db`",
    ),
    InShell(
        title="A variable that names a namespace",
        environment={"HUBBUB_CHANNELS_CHAT": ""},
        command="hubbub serve",
        sees=(
            "hubbub: HUBBUB_CHANNELS_CHAT: names a namespace and no rule of it; HUBBUB_CHANNELS_CHAT_DELIVERY=live "
            "declares it with the defaults"
        ),
        means="A variable says one rule, and one rule declares the namespace.",
        write="`HUBBUB_CHANNELS_CHAT_DELIVERY=live`, or `[channels.chat]` in `hubbub.toml`",
    ),
    InShell(
        title="Several workers without a broker",
        files={"hubbub.toml": "[server]\nworkers = 2\n"},
        command="hubbub serve",
        sees=(
            "hubbub: hubbub.toml: server.workers = 2: more than one needs a shared broker, such as "
            'broker.url = "redis://localhost"; memory:// is none'
        ),
        means="Two processes that share nothing would each know half of the subscribers.",
        write='`[broker]` with `url = "redis://localhost"`, or `workers = 1`',
    ),
    InShell(
        title="An origin without its scheme",
        files={"hubbub.toml": '[server]\nallowed_origins = ["example.com"]\n'},
        command="hubbub serve",
        sees=(
            "hubbub: hubbub.toml: server.allowed_origins = ('example.com',): 'example.com' is no origin; expected "
            'such as "https://example.com", or "*" for any'
        ),
        means="Browsers send the scheme as well, and the port if it is not the usual one.",
        write='`allowed_origins = ["https://example.com"]`',
    ),
    InShell(
        title="A server without any secret",
        command="hubbub serve --port PORT",
        exit=None,
        sees=(
            "nobody may connect: set auth.hmac_secret (or auth.public_key, auth.jwks_url) or auth.anonymous, or "
            "start with --dev"
        ),
        means="A server that was told nothing about its users lets nobody in, and says so in its first line.",
        write="`HUBBUB_AUTH_HMAC_SECRET=$(openssl rand -hex 32) hubbub serve`, or `hubbub serve --dev` to try it out",
    ),
]
