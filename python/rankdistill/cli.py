"""The command line: `rankdistill run | train | extract | distill | evaluate | recommend | export |
bench-serving | tune | methods | reproduce | doctor`.

Only `rankdistill.config` is imported until a command runs, so `--help` does not wait for torch.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn, get_args, get_origin

from rankdistill import __version__
from rankdistill.config import (
    BenchServingConfig,
    DistillConfig,
    DoctorConfig,
    EvaluateConfig,
    ExportConfig,
    ExtractConfig,
    MethodsConfig,
    RecommendConfig,
    ReproduceConfig,
    RunConfig,
    TrainConfig,
    TuneConfig,
)

try:
    from jsonargparse import ArgumentParser
except ModuleNotFoundError as error:
    if error.name != "jsonargparse":
        raise
    ArgumentParser = None

COMMANDS = {
    "run": RunConfig,
    "train": TrainConfig,
    "extract": ExtractConfig,
    "distill": DistillConfig,
    "evaluate": EvaluateConfig,
    "recommend": RecommendConfig,
    "export": ExportConfig,
    "bench-serving": BenchServingConfig,
    "tune": TuneConfig,
    "methods": MethodsConfig,
    "reproduce": ReproduceConfig,
    "doctor": DoctorConfig,
}
GROUPS = ("training", "student", "model")  # whose keys come first among those of one name
POSITIONAL = ("reproduce",)  # commands whose required settings are given without a name
UNKNOWN = re.compile(
    r"(?:nrecognized arguments: (?:--)?|does not accept (?:option|nested key) '|NestedArg\(key='|Key ['\"])([\w.\-]+)"
)


def keys_of(parser) -> list[str]:
    return [action.dest for action in parser._actions if action.dest not in ("help", "config")]


def nearest_key(message: str, keys: Sequence[str]) -> str:
    """The sentence that an unknown key's error ends with: the nearest key of the command, if the error names one."""
    found = UNKNOWN.search(message)
    if not found:
        return ""
    wanted = found.group(1)
    if wanted in keys:
        return ""
    last = wanted.rsplit(".", 1)[-1]
    near = difflib.get_close_matches(wanted, keys, 1, 0.8) if "." in wanted else []
    if not near:  # --epochs is training.epochs, rather than whatever is spelled alike
        near = sorted((key for key in keys if key.rsplit(".", 1)[-1] == last), key=rank_of_group)
    if not near:
        by_last_part = {key.rsplit(".", 1)[-1]: key for key in keys}
        near = difflib.get_close_matches(wanted, keys, 1, 0.5)
        near = near or [by_last_part[k] for k in difflib.get_close_matches(last, by_last_part, 1, 0.5)]
    others = f" (or {', '.join(near[1:])})" if near[1:] else ""
    return f" The nearest key is {near[0]}{others}." if near else ""


def rank_of_group(key: str) -> int:
    group = key.partition(".")[0]
    return GROUPS.index(group) if group in GROUPS else len(GROUPS)


def as_lists(arguments: Sequence[str], command) -> list[str]:
    """The arguments with a single value of a list in brackets: --users ann is --users '["ann"]'."""
    made, wraps = [], None
    listed = {
        f"--{action.dest}": get_args(action._typehint)[0] for action in command._actions if is_list(action)
    }
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if wraps is not None:
            made.append(in_brackets(argument, wraps))
        elif equals and name in listed:
            made.append(f"{name}={in_brackets(value, listed[name])}")
        else:
            made.append(argument)
        wraps = listed.get(argument) if wraps is None else None
    return made


def is_list(action) -> bool:
    return get_origin(getattr(action, "_typehint", None)) is list


def in_brackets(value: str, kind: type) -> str:
    kinds = {kind, *get_args(kind)}
    if not value or value.startswith(("[", "--")) or not kinds & {str, int, float}:
        return value
    return json.dumps([value]) if str in kinds else f"[{value}]"


def make_parser(chosen: str | None = None):
    """The parser of all commands; errors speak of the chosen one's keys, of the parser `command`."""

    class Parser(ArgumentParser):
        command = None

        def error(self, message, *args, **kwargs):
            keys = keys_of(Parser.command) if Parser.command else ()
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
        if name == chosen:
            Parser.command = command
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for a failure, 2 for a bad command line, 130 and 141 for signals."""
    if ArgumentParser is None:
        sys.stderr.write(
            "rankdistill: error: the command line needs jsonargparse: pip install 'rankdistill[train]'\n"
        )
        return 2
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = make_parser(next((a for a in arguments if a in COMMANDS), None))
    settings = parser.parse_args(as_lists(arguments, parser.command) if parser.command else arguments)
    name = settings.subcommand
    try:
        chosen = vars(parser.instantiate(settings)[name])
        config = COMMANDS[name](**{key: value for key, value in chosen.items() if key != "config"})
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        from rankdistill import commands

        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # where a teacher may be named as module:name

        getattr(commands, name.replace("-", "_"))(config)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads the output has enough, as `| head`; the rest of it goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
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
