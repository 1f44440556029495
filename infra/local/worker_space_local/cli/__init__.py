"""The command `worker-space`: the stack on this machine, and a small client of the API.

Only click is imported before a command runs, so that `--help` answers at once.
"""

import json
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])
_DAY = 24 * 3600


def _user(command: _Command) -> _Command:
    return click.option(
        "--user", default="me", show_default=True, help="Who asks (ignored with WORKER_SPACE_API: its token says)."
    )(command)


def _project(command: _Command) -> _Command:
    return click.option("--project", "-p", help="The project's id; may be left out where there is only one.")(command)


def _agent(command: _Command) -> _Command:
    return click.option(
        "--agent",
        "-a",
        help="Who answers: an agent's name or id, or `auto` for whoever fits, or a plan of several"
        " [default: analyst, or the session's agent].",
    )(command)


def _examples(*lines: str, head: str = "Examples") -> str:
    """Lines that a command's help shows as they are, behind its options."""
    # Click wraps a paragraph unless it begins with a line that holds a backspace.
    return "\n".join(["\b", f"{head}:", *(f"  {line}" for line in lines)])


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=_examples(
        "worker-space run --project examples/shop --once   all in one: start, upload, ask, stop",
        "worker-space serve                                start the stack and leave it running; then, elsewhere:",
        "worker-space push examples/shop                   make a project of a folder",
        'worker-space ask "Analyse src/app.py"             put a question to one of its agents',
        head="First steps",
    ),
)
def main() -> None:
    """Worker Space: AI agents that work on a project's files.

    The commands talk to the stack on this machine, found by WORKER_SPACE_DATA_DIR (default .local), as the user
    `me`. Set WORKER_SPACE_API and WORKER_SPACE_TOKEN to talk to a deployed one.
    """
    for stream in (sys.stdout, sys.stderr):
        # An answer may hold what the terminal's encoding cannot say.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


@main.command(epilog=_examples("WORKER_SPACE_PORT=9000 worker-space serve"))
def serve() -> None:
    """Start the stack on this machine.

    It runs until Ctrl-C and needs no account, key or network. WORKER_SPACE_PORT (default 8000) is the API's
    port, WORKER_SPACE_DATA_DIR (default .local) is where it keeps things; they are there again at the next
    start.
    """
    from worker_space_local.run import serve_stack

    raise SystemExit(serve_stack())


@main.command(
    epilog=_examples(
        'curl -H "Authorization: Bearer $(worker-space token --user me)" http://127.0.0.1:8000/my/projects/'
    )
)
@click.option("--user", required=True, help="Whose token it is: the claim `sub`.")
@click.option("--ttl", default=3600, show_default=True, type=click.IntRange(1, 30 * _DAY), help="Seconds it is valid.")
def token(user: str, ttl: int) -> None:
    """Print a token for the running stack.

    Nothing else is printed, so that the output can be used as it is.
    """
    from worker_space_local.client import data_dir, make_token

    click.echo(make_token(data_dir(), user, ttl))


@main.command(epilog=_examples("worker-space push examples/shop"))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--project", "-p", help="The project's id; otherwise made from the folder's name.")
@_user
def push(folder: Path, project: str | None, user: str) -> None:
    """Send the files of DIR to a project.

    The project is made if there is none. Files that are the same are not sent again, so a push that was broken off
    is gone on with by repeating it; files that the project has otherwise are replaced, and named. Nothing is
    deleted. Hidden files, virtual environments, node_modules, __pycache__, links and files over 5 GiB stay behind.
    The status is 1 if a file could not be sent.
    """
    from worker_space_local.cli import pushing

    if not pushing.push_folder(folder, project, user):
        raise SystemExit(1)


@main.command(epilog=_examples("worker-space pull examples/shop", "worker-space pull copy --project shop"))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path), default=Path())
@click.option("--force", is_flag=True, help="Replace files that were changed here, too.")
@_project
@_user
def pull(folder: Path, project: str | None, user: str, force: bool) -> None:
    """Get a project's files into DIR (default: the current folder).

    DIR is made if it is not there; the project is the one that DIR was sent to, unless --project names another.
    Files that are the same are not sent again, so a pull that was broken off is gone on with by repeating it. A
    file that was changed here since it was last the same as the project's is kept; so is one that differs and was
    never sent or got from here. Nothing is deleted. Hidden and generated files stay in the project. The status is 1
    if a file was kept or could not be got.
    """
    from worker_space_local.cli import pulling

    if not pulling.pull_folder(folder, project, user, force=force):
        raise SystemExit(1)


@main.command(name="ls", epilog=_examples("worker-space ls", "worker-space ls src --recursive --project shop"))
@click.argument("folder", metavar="[PATH]", default="")
@click.option("--recursive", "-r", is_flag=True, help="All files below, without folders.")
@_project
@_user
def list_files(folder: str, recursive: bool, project: str | None, user: str) -> None:
    """List the files of a project's folder."""
    from worker_space_local.cli import looking

    looking.list_folder(project, user, folder, recursive=recursive)


@main.command(epilog=_examples("worker-space cat src/app.py", "worker-space cat data/sales.csv -p shop > sales.csv"))
@click.argument("path")
@_project
@_user
def cat(path: str, project: str | None, user: str) -> None:
    """Print a file of a project, byte by byte."""
    from worker_space_local.cli import looking

    looking.show_file(project, user, path)


@main.command(name="export", epilog=_examples("worker-space export shop", "worker-space export shop -o backup.zip"))
@click.argument("project")
@click.option("--output", "-o", metavar="FILE", type=click.Path(path_type=Path), help="[default: PROJECT.zip]")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@_user
def export_project(project: str, output: Path | None, force: bool, user: str) -> None:
    """Write a project's archive to a file.

    It holds agents with their versions, sessions, messages, tasks, plans, approvals, events and memories, and a
    list of the files; the files themselves come with `pull`. With `-o -` it goes to the standard output.
    """
    from worker_space_local.cli import archives

    archives.export_project(project, user, output, force=force)


@main.command(
    name="import", epilog=_examples("worker-space import shop.zip", "worker-space import shop.zip --id shop-2")
)
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--id", "project", help="The new project's id [default: the service makes one].")
@click.option("--name", help="Its name [default: the archive's].")
@click.option("--via", metavar="PROJECT", help="A project of yours that a file over 5 MiB passes through.")
@_user
def import_project(file: Path, project: str | None, name: str | None, via: str | None, user: str) -> None:
    """Make a project out of an archive.

    What it names keeps its ids. Tasks that had not ended are canceled. If anything in it is wrong, nothing is made.
    """
    from worker_space_local.cli import archives

    archives.import_project(file, user, project, name, via)


@main.group(
    invoke_without_command=True,
    epilog=_examples(
        "worker-space agents --project shop",
        "worker-space agents create reviewer.json --project shop",
    ),
)
@_project
@_user
@click.pass_context
def agents(ctx: click.Context, project: str | None, user: str) -> None:
    """List a project's agents; `agents create` adds one."""
    ctx.obj = (project, user)
    if ctx.invoked_subcommand is None:
        from worker_space_local.cli import listing

        listing.agents(project, user)


@agents.command(
    "create",
    epilog=_examples(
        '{"name": "reviewer", "system_prompt": "You review Python code.", "tools": ["read_file", "search_files"]}',
        head="A file",
    ),
)
@click.argument("file", metavar="FILE.json", type=click.File(encoding="utf-8"))
@_project
@click.pass_obj
def create_agent(above: tuple[str | None, str], file: Any, project: str | None) -> None:
    """Add the agent that FILE.json describes.

    With `-` for the file it is read from the standard input.
    """
    from worker_space_local.cli import listing

    try:
        agent = json.load(file)
    except ValueError as error:
        raise click.ClickException(f"{file.name} is not JSON: {error}") from error
    listing.create_agent(project or above[0], above[1], agent)


@main.command(
    epilog=_examples(
        "worker-space limits --project shop",
        "worker-space limits --user alice --project shop --set tokens_per_day=500000 --set agents=none",
        "worker-space limits --user alice --project shop --set agents=default",
    )
)
@click.option("--set", "changes", multiple=True, metavar="LIMIT=N", help="As the operator: a number, none or default.")
@_project
@_user
def limits(changes: tuple[str, ...], project: str | None, user: str) -> None:
    """Show a project's limits and what is used of them; --set changes them as the deployment's operator.

    --set writes to the table itself: to this machine's stack, or to the table that WORKER_SPACE_TABLE names, with the
    AWS credentials of the environment. `none` lifts a limit, `default` takes back what --set has changed.
    """
    from worker_space_local.cli import allowing

    if changes:
        allowing.grant_limits(project, user, changes)
    else:
        allowing.show_limits(project, user)


@main.command(
    epilog=_examples(
        'worker-space ask "Analyse src/app.py"',
        'worker-space ask "What does utils.py do?" --agent coder --project shop',
        'worker-space ask "Review src/app.py and then write a README" --agent auto',
    )
)
@click.argument("text")
@_agent
@click.option("--session", "-s", help="Go on in this session instead of a new one.")
@click.option("--timeout", default=300, show_default=True, type=click.IntRange(1), help="Seconds to wait.")
@_project
@_user
def ask(text: str, agent: str | None, session: str | None, timeout: int, project: str | None, user: str) -> None:
    """Send one message and print what the agent does and answers.

    What an agent needs your word for is asked on a terminal.
    """
    from worker_space_local.cli import talk

    raise SystemExit(talk.ask(project, user, text, agent, session, timeout))


@main.command(epilog=_examples("worker-space chat --agent coder"))
@_agent
@click.option("--session", "-s", help="Go on in this session instead of a new one.")
@click.option(
    "--timeout", default=300, show_default=True, type=click.IntRange(1), help="Seconds to wait for an answer."
)
@_project
@_user
def chat(agent: str | None, session: str | None, timeout: int, project: str | None, user: str) -> None:
    """Talk with an agent, message by message, in one session.

    Ctrl-D ends the chat; Ctrl-C while an answer is awaited cancels it. What an agent needs your word for is asked
    on a terminal.
    """
    from worker_space_local.cli import talk

    talk.chat(project, user, agent, session, timeout)


@main.command(
    epilog=_examples(
        "worker-space tasks --state working",
        "worker-space tasks --cancel ID",
    )
)
@click.option("--cancel", metavar="ID", help="Cancel this task instead of listing.")
@click.option(
    "--state",
    type=click.Choice(["submitted", "working", "input-required", "completed", "failed", "canceled"]),
    help="Only these.",
)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="At most so many, newest first.")
@_project
@_user
def tasks(cancel: str | None, state: str | None, limit: int, project: str | None, user: str) -> None:
    """List a project's tasks, newest first, or cancel one."""
    from worker_space_local.cli import listing

    if cancel is not None:
        listing.cancel_task(project, user, cancel)
    else:
        listing.tasks(project, user, state, limit)


@main.command(
    epilog=_examples(
        "worker-space run",
        'worker-space run --project ~/code/mine --ask "What is in this project?" --once',
    )
)
@click.option(
    "--project", "folder", metavar="DIR", type=click.Path(path_type=Path), help="A folder [default: the sample]."
)
@click.option(
    "--ask", "text", metavar="TEXT", help="What to ask [default: about src/app.py, or what is in the project]."
)
@click.option("--agent", default="analyst", show_default=True, help="Who answers.")
@click.option("--once", is_flag=True, help="End after the answer; the status is 0 only if there was one.")
@click.option(
    "--timeout", default=120, show_default=True, type=click.IntRange(1), help="Seconds to wait for the answer."
)
def run(folder: Path | None, text: str | None, agent: str, once: bool, timeout: int) -> None:
    """Try it all: stack, folder, question.

    Starts the stack, sends a folder, asks about it and shows what happens. Afterwards the stack keeps running,
    with a token and requests to paste, until Ctrl-C. A stack that runs already is used and left running.
    """
    from worker_space_local.run import run as run_all

    raise SystemExit(run_all(folder, text, agent, once=once, timeout=timeout))
