"""The command line: `sidecar serve`, `check`, `ask`, `alerts`, `cache`, `journal`, `prices`, `usage`, `version`.

Slow imports are made by the command that needs them.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sidecar import VERSION
from sidecar.commands import cache, prices, usage
from sidecar.errors import SettingsError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 1 (it failed) or 2 (settings or arguments are wrong)."""
    # Standard error is the log's, JSON line by line; gRPC's core writes there in a form of its own. Read when grpc is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    arguments = _parser().parse_args(argv)
    try:
        return _run(arguments)
    except SettingsError as error:
        sys.stderr.write(f"sidecar: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `sidecar ask ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "version":
        sys.stdout.write(f"sidecar {VERSION}\n")
        return 0
    if arguments.command == "ask":
        from sidecar.commands.ask import ask

        return ask(
            arguments.prompt,
            target=arguments.target,
            stream=arguments.stream,
            node=arguments.node,
            model=arguments.model,
            system=arguments.system,
        )
    if arguments.command == "usage":
        return usage.usage(arguments)
    if arguments.command == "cache":
        return cache.cache(arguments)
    path = arguments.settings or os.environ.get("SIDECAR_SETTINGS") or None
    file = Path(path) if path else None
    if arguments.command == "check":
        from sidecar.commands.check import check

        return check(file, os.environ, datetime.now(UTC).date(), live=arguments.live, as_json=arguments.json)
    if arguments.command == "prices":
        return prices.prices(arguments, file, os.environ, datetime.now(UTC).date())
    if arguments.command == "journal":
        from sidecar.commands.journal import journal
        from sidecar.settings import load

        return journal(arguments.action, load(file, os.environ), arguments.data_dir)
    if arguments.command == "alerts":
        from sidecar.commands import alerts
        from sidecar.settings import load

        return alerts.test(load(file, os.environ))
    from sidecar import app, settings

    return app.serve(settings.load(file, os.environ))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sidecar", description="The process beside each service that calls language models for it.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="start the sidecar")
    check = commands.add_parser(
        "check", help="find mistakes in settings before a deploy; exit status 0 ok, 1 errors, 2 unreadable settings"
    )
    journal = commands.add_parser("journal", help="look over or repair what is kept of spending, while no sidecar uses it")
    journal.add_argument("action", choices=("check", "repair"), help="repair keeps what can be read, and the damaged files beside")
    journal.add_argument("--data-dir", metavar="FOLDER", help="in place of the settings' server.data_dir")
    alerts = commands.add_parser("alerts", help="send a trial message to everybody whom [alerts] names")
    alerts.add_argument("action", choices=("test",))
    for command in (serve, check, journal, alerts):
        command.add_argument("--settings", metavar="FILE", help="the TOML file (default: $SIDECAR_SETTINGS, else none)")
    check.add_argument("--live", action="store_true", help="also make one tiny real call per configured provider")
    check.add_argument("--json", action="store_true", help="print the findings as JSON")

    ask = commands.add_parser("ask", help="ask a running sidecar")
    ask.add_argument("prompt")
    ask.add_argument("--stream", action="store_true", help="print the answer piece by piece, as it comes")
    ask.add_argument("--node", default="", metavar="SERVICE.NODE", help="on whose behalf, for example oracle.summary")
    ask.add_argument("--model", default="", help="a model of the catalogue (default: the policy chooses)")
    ask.add_argument("--system", default="", metavar="TEXT", help="the system prompt")
    ask.add_argument("--target", default="127.0.0.1:50051", metavar="ADDRESS", help="host:port or unix:/path (default: %(default)s)")

    usage.add_parser(commands)
    cache.add_parser(commands)
    prices.add_parser(commands)

    commands.add_parser("version", help="print the version")
    return parser


if __name__ == "__main__":
    sys.exit(main())
