"""The command ``flexkv``: serve, status, set, ssd, doctor, config."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from flexkv import config_check, doctor, effective, launcher, status_text
from flexkv.asking import ask
from flexkv.config import Settings, parsed
from flexkv.config_file import CONFIG_PATH_ENV
from flexkv.errors import ConfigError, FlexKVError, UnusableError
from flexkv.log import setup_logging
from flexkv.options import BY_KEY, LIVE, OPTIONS
from flexkv.version import __version__

EXIT_UNREAD = 128 + signal.SIGPIPE
REATTACH_TIMEOUT_S = 30.0
REATTACH_POLL_S = 0.1
_LINK = re.compile(r" \(\[.*?\]\(.*?\)\)")
"""A link of the documentation inside an option's text; on a terminal it leads nowhere."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    0 = done, 1 = something is wrong (said on stderr), 2 = wrong usage, or a setting cannot be used,
    141 = nobody reads the rest of what it says (``flexkv doctor | head -1``).
    """
    try:
        try:
            return _main(argv)
        finally:
            sys.stdout.flush()  # here, not at the interpreter's end, which would complain
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_UNREAD


def _main(argv: Sequence[str] | None) -> int:
    arguments, rest = _parser().parse_known_args(argv)
    arguments.rest = rest
    if arguments.rest and arguments.run is not serve:
        arguments.wrong(f"unrecognized arguments: {' '.join(arguments.rest)}")
    if arguments.config:
        os.environ[CONFIG_PATH_ENV] = arguments.config
    if arguments.command == "config" and bool(arguments.action) != bool(arguments.file):
        arguments.wrong("config check needs a FILE")
    try:
        if getattr(arguments, "file", None):
            return check_file(arguments.file)
        named_by = "--config" if arguments.config else CONFIG_PATH_ENV
        settings = Settings.load(file_named_by=named_by)
        if arguments.address:
            parsed("--address", BY_KEY["server_recv_port"], arguments.address)
            settings = Settings.load({"server_recv_port": arguments.address}, None, named_by)
        setup_logging(settings.log_level, settings.logging_prefix)
        result: int = arguments.run(settings, arguments)
    except FlexKVError as error:
        sys.stderr.write(f"flexkv: {error}\n")
        unusable = isinstance(error, (ConfigError, UnusableError))
        return launcher.EXIT_SETTINGS if unusable else 1
    except KeyboardInterrupt:
        return 130
    return result


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as all of this command does: in one line, with the way out."""

    def error(self, message: str) -> NoReturn:
        self.exit(launcher.EXIT_SETTINGS, f"flexkv: {message}. Remedy: {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="flexkv", description="A KV-cache tier for vLLM.")
    parser.add_argument("--version", action="version", version=f"flexkv {__version__}")
    shared = _Parser(add_help=False)
    shared.add_argument("--address", help="ipc:///path of the socket (FLEXKV_SERVER_RECV_PORT)")
    shared.add_argument("--config", help="configuration file (FLEXKV_CONFIG_PATH)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, parents=[shared])
        command.set_defaults(run=run, wrong=command.error)
        return command

    run = add("serve", serve, "run the sidecar in the foreground until it is stopped; further "
              "options are the sidecar's own (--cpu-cache-gb 32, ...)")  # fmt: skip
    run.formatter_class = argparse.RawDescriptionHelpFormatter
    run.epilog = "options of the sidecar:\n" + "\n".join(_sidecar_options())
    told = add("status", status, "what the sidecar at the address is doing, as JSON")
    told.add_argument("--short", action="store_true", help="about ten lines for a person instead")
    change = add("set", set_options, f"change options of the running sidecar: {', '.join(LIVE)}; "
                 "without any, print what they are now")  # fmt: skip
    change.add_argument("changes", nargs="*", metavar="NAME=VALUE")
    disks = add("ssd", ssd, "reattach DIR: use a folder of the SSD tier again that was taken out "
                "after errors; it begins empty")  # fmt: skip
    disks.add_argument("what", choices=["reattach"])
    disks.add_argument("folder", metavar="DIR")
    look = add("doctor", run_doctor, "check this machine and say what to do; with --ssd, read "
               "every block of a folder of the SSD tier whose sidecar does not run")  # fmt: skip
    look.add_argument("--ssd", action="append", metavar="DIR", help="may be given several times")
    shown = add("config", config, "the effective settings and where each comes from; "
                "`config check FILE` explains what a file would do")  # fmt: skip
    shown.add_argument("action", nargs="?", choices=["check"])
    shown.add_argument("file", nargs="?")
    return parser


def _sidecar_options() -> Iterator[str]:
    """Two or more lines an option that the sidecar's command line takes."""
    for option in OPTIONS:
        if option.side == "engine" or option.status != "works":
            continue
        name = option.name.replace("_", "-")
        yield f"  --{name} VALUE (default: {effective.default_rule(option)})"
        text = f"{_LINK.sub('', option.doc)} ({option.allowed})"
        yield textwrap.fill(text, 78, initial_indent=" " * 6, subsequent_indent=" " * 6)


def check_file(path: str) -> int:
    """``config check``: 0 = the file can be used here, with all that it asks for."""
    try:
        found = config_check.load(path, os.environ)
    except ConfigError as error:
        for problem in error.problems:
            sys.stderr.write(f"flexkv: {problem}\n")
        return 1
    for line in config_check.explain(path, found):
        sys.stdout.write(line + "\n")
    return 1 if config_check.unusable_folders(found) or config_check.objection(found) else 0


def serve(settings: Settings, arguments: argparse.Namespace) -> int:
    """Becomes the sidecar: same pid, so that a supervisor watches the right process."""
    decided = {"idle_exit_s": "flexkv serve"}
    if arguments.address:
        decided["server_recv_port"] = "--address"
    settings = dataclasses.replace(
        settings, idle_exit_s=0.0, sources={**settings.sources, **decided}
    )
    argv = [*launcher.command(settings, "serve"), *arguments.rest]
    env = launcher.environment(settings, os.environ)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(argv[0], argv, env)


def status(settings: Settings, arguments: argparse.Namespace) -> int:
    """The control plane's ``status``."""
    if arguments.short:
        for line in status_text.short(ask(settings, "status", {}), settings.server_recv_port):
            sys.stdout.write(line + "\n")
        return 0
    sys.stdout.write(json.dumps(ask(settings, "status", {}), indent=2) + "\n")
    return 0


def set_options(settings: Settings, arguments: argparse.Namespace) -> int:
    """The control plane's ``set``; prints what counts now, without a change with what may be."""
    if not arguments.changes:
        now = ask(settings, "settings", {})
        for name in LIVE:
            text = f"{name}={now.get(name, '?')}"
            sys.stdout.write(f"{text:<36} {BY_KEY[name].allowed}\n")
        return 0
    for text in arguments.changes:
        if "=" not in text:
            raise ConfigError(f"set: {text!r} names no value: flexkv set {text}=VALUE")
    changes = dict(text.partition("=")[::2] for text in arguments.changes)
    answer = ask(
        settings, "set", {BY_KEY[n].name if n in BY_KEY else n: v for n, v in changes.items()}
    )
    for name in ("pid", "log_file"):
        answer.pop(name)
    for name, value in answer.items():
        sys.stdout.write(f"{name}={value}\n")
    return 0


def ssd(settings: Settings, arguments: argparse.Namespace) -> int:
    """The control plane's ``ssd_reattach``; then says how it went: 0 = the folder serves, 1 = not.

    The sidecar opens the folder in the background; ``status`` tells when that is over.
    """
    folder = os.path.abspath(arguments.folder)
    ask(settings, "ssd_reattach", {"path": folder})
    deadline = time.monotonic() + REATTACH_TIMEOUT_S
    while time.monotonic() < deadline:
        directories = ask(settings, "status", {})["ssd"]["directories"]
        found = next(d for d in directories if d["path"] == folder)
        if found["state"] == "serving":
            sys.stdout.write(f"{folder} is attached again, empty\n")
            return 0
        if found["state"] == "lost" and not found["attaching"]:
            sys.stderr.write(f"flexkv: {folder} stays out: {found['cause']}\n")
            return 1
        time.sleep(REATTACH_POLL_S)
    sys.stderr.write(
        f"flexkv: {folder} is not yet attached after {REATTACH_TIMEOUT_S:g} s; the sidecar goes "
        "on with it, flexkv status tells\n"
    )
    return 1


def run_doctor(settings: Settings, arguments: argparse.Namespace) -> int:
    """One line a check; 1 if anything is missing that FlexKV cannot do without.

    With ``--ssd`` the jar's own doctor looks the folders over; its exit status is ours.
    """
    if arguments.ssd:
        folders = [part for folder in arguments.ssd for part in ("--ssd", folder)]
        return subprocess.run(
            [*launcher.command(settings, "doctor"), *folders], check=False
        ).returncode
    failed = False
    for finding in doctor.examine(settings):
        failed |= finding.state == doctor.FAIL
        sys.stdout.write(f"{finding.state:<5}{finding.name:<12}{finding.text}\n")
    return 1 if failed else 0


def config(settings: Settings, _: argparse.Namespace) -> int:
    """Name, value and source of every option that does something, and what is to be said."""
    rows = [option for option in OPTIONS if option.status == "works"]
    width = max(len(option.name) for option in rows)
    for option in rows:
        source = settings.sources[option.name]
        shown = source if source != "default" else f"default (change with {option.env})"
        value = effective.shown(settings, option)
        if source == "default" and option.name == "cpu_cache_gb":
            shown = f"default: {effective.default_rule(option)} (change with {option.env})"
        sys.stdout.write(f"{option.name:<{width}}  {value or '-':<28}  {shown}\n")
    if settings.config_path:
        sys.stdout.write(f"file: {settings.config_path}\n")
    for warning, text in settings.notes:
        sys.stdout.write(f"{'warning' if warning else 'note'}: {text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
