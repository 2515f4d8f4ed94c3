"""The command line: `rankdistill run | train | extract | distill | evaluate | recommend | export |
bench-serving | tune | methods | reproduce`.

Only `rankdistill.config` is imported until a command runs, so `--help` does not wait for torch.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from rankdistill import __version__
from rankdistill.config import COMMANDS

try:
    from jsonargparse import ArgumentParser
except ModuleNotFoundError as error:
    if error.name != "jsonargparse":
        raise
    ArgumentParser = None

POSITIONAL = ("reproduce",)  # commands whose required settings are given without a name
UNKNOWN = re.compile(
    r"(?:nrecognized arguments: (?:--)?|does not accept (?:option|nested key) '|Key ['\"])([\w.\-]+)"
)


def keys_of(parser) -> list[str]:
    return [action.dest for action in parser._actions if action.dest not in ("help", "config")]


def nearest_key(message: str, keys: Sequence[str]) -> str:
    """The sentence that an unknown key's error ends with: the nearest known key, if the error names one."""
    found = UNKNOWN.search(message)
    if not found:
        return ""
    wanted = found.group(1).split("=")[0]
    if wanted in keys:
        return ""
    by_last_part = {key.rsplit(".", 1)[-1]: key for key in keys}
    close = difflib.get_close_matches(wanted, keys, 1, 0.5)
    if not close:
        close = [
            by_last_part[k]
            for k in difflib.get_close_matches(wanted.rsplit(".", 1)[-1], by_last_part, 1, 0.5)
        ]
    return f" The nearest key is {close[0]}." if close else ""


def make_parser():
    known: dict[str, list[str]] = {}

    class Parser(ArgumentParser):
        def error(self, message, *args, **kwargs):
            keys = [key for keys in known.values() for key in keys]
            sys.stderr.write(f"rankdistill: error: {message}{nearest_key(message, keys)}\n")
            sys.exit(2)

    parser = Parser(
        prog="rankdistill",
        allow_abbrev=False,
        version=__version__,
        description="Distil a large recommender into a small one.",
    )
    commands = parser.add_subcommands(required=True)
    for name, config in COMMANDS.items():
        summary = config.__doc__.splitlines()[0].partition(": ")[2]
        command = Parser(description=summary, allow_abbrev=False)
        command.add_argument(
            "--config", action="config", help="a YAML file of settings; later arguments override it"
        )
        command.add_class_arguments(config, as_group=False, as_positional=name in POSITIONAL)
        commands.add_subcommand(name, command, help=summary)
        known[name] = keys_of(command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for a failure, 2 for a bad command line."""
    if ArgumentParser is None:
        sys.stderr.write(
            "rankdistill: error: the command line needs jsonargparse: pip install 'rankdistill[train]'\n"
        )
        return 2
    parser = make_parser()
    settings = parser.parse_args(arguments)
    name = settings.subcommand
    try:
        chosen = vars(parser.instantiate(settings)[name])
        config = COMMANDS[name](**{key: value for key, value in chosen.items() if key != "config"})
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        from rankdistill import commands

        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # where a teacher may be named as module:name

        getattr(commands, name.replace("-", "_"))(config)
    except KeyboardInterrupt:
        sys.stderr.write(
            "rankdistill: interrupted; the same command goes on from its last checkpoint, if it has one\n"
        )
        return 130
    except (
        ValueError,
        TypeError,
        KeyError,
        OSError,
        MemoryError,
        FloatingPointError,
        ImportError,
        EOFError,
        *errors_of_libraries(),
    ) as error:
        if os.environ.get("RANKDISTILL_DEBUG"):
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        sys.stderr.write(f"rankdistill: error: {text}\n")
        return 1
    return 0


def errors_of_libraries() -> tuple[type[Exception], ...]:
    """What libraries raise for a file, a disk or a database that is not as it should be, of those that are in use."""
    named = {
        "safetensors": "SafetensorError",
        "polars.exceptions": "PolarsError",
        "sqlalchemy.exc": "SQLAlchemyError",
        "zipfile": "BadZipFile",
    }
    return tuple(
        getattr(sys.modules[module], name) for module, name in named.items() if module in sys.modules
    )


def run() -> NoReturn:
    """The program: `main`, whose exit status is the process's whatever a broken group of processes does at its end."""
    status = main()
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        # A failure left the group, since leaving it in order may wait for others; its threads may abort an ordinary end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
