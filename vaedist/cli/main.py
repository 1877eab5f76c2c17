"""The `vaedist` command: its subcommands, error messages, exit codes and signals."""

import signal
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import click

from vaedist import __version__
from vaedist.cli.bench import bench
from vaedist.cli.check import check
from vaedist.cli.cluster import cluster
from vaedist.cli.completion import completion
from vaedist.cli.config import config
from vaedist.cli.data import data
from vaedist.cli.doctor import doctor
from vaedist.cli.evaluate import evaluate
from vaedist.cli.export import export
from vaedist.cli.inference import encode, generate, neighbours
from vaedist.cli.init import init
from vaedist.cli.jobs import jobs, submit
from vaedist.cli.runs import reconstruct, runs, sample
from vaedist.cli.streams import CLOSED_PIPE, OutputError, finish_stdout, give_up_stdout, open_streams
from vaedist.cli.tensorboard import tensorboard
from vaedist.cli.train import train
from vaedist.cli.tune import tune
from vaedist.errors import Interrupted, StorageError, UserCodeError, VaedistError
from vaedist.files import is_undecoded, readable


class OneLineErrors(click.Group):
    """A command group that turns errors, vaedist's and click's, into one line on stderr and an exit code.

    For an exception in a user's own code, the user's traceback is printed.
    """

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        """Runs a command; with `standalone_mode`, ends the process."""
        if standalone_mode:
            open_streams()
        try:
            result = super().main(*args, standalone_mode=False, **kwargs)  # type: ignore[call-overload]
            finish_stdout()
        except OutputError as error:
            give_up_stdout()
            if error.closed:
                sys.exit(CLOSED_PIPE)
            _end(error.exit_code, f"error: {error}")
        except UserCodeError as error:
            _end(error.exit_code, *f"error: {error}".splitlines())
        except VaedistError as error:
            stopped = isinstance(error, Interrupted)
            prefix = "" if str(error).startswith("stopped") else "stopped: " if stopped else "error: "
            _end(error.exit_code, f"{prefix}{error}")
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.UsageError as error:
            message = error.format_message().rstrip(".")
            if error.ctx:  # a message may end with "Did you mean ...?"
                message += f"{' See' if message.endswith('?') else '; see'} {error.ctx.command_path} --help"
            _end(error.exit_code, f"error: {message}")
        except click.ClickException as error:
            _end(error.exit_code, f"error: {error.format_message()}")
        except UnicodeEncodeError as error:
            if not is_undecoded(error.object):
                raise
            _end(StorageError.exit_code, f"error: the name {error.object} is not UTF-8, but must be")
        except FileNotFoundError:
            if _cwd_exists():
                raise
            _end(StorageError.exit_code, "error: the current folder no longer exists")
        if standalone_mode:
            sys.exit(result if isinstance(result, int) else 0)
        return result

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; an unhandled KeyboardInterrupt becomes an `Interrupted`."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None


def _handle_signals() -> None:
    """Handles SIGTERM, sent by schedulers, and SIGHUP, a lost terminal, like Ctrl-C: a run saves its step and stops.

    Signals that were ignored when the command started stay ignored, as with `nohup` or in a script's background jobs.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(*_: Any) -> None:
    # The kernel and the shell both report a lost terminal, but a second interrupt would not wait for the checkpoint.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
    raise KeyboardInterrupt


def _cwd_exists() -> bool:
    """Returns True if the current folder exists."""
    try:
        return Path.cwd().is_dir()
    except FileNotFoundError:
        return False


def _end(code: int, *lines: str) -> NoReturn:
    """Prints an error on stderr and ends the process; several lines are printed as they are, one is normalised."""
    try:
        finish_stdout()
    except OutputError:
        give_up_stdout()
    shown = lines if len(lines) > 1 else [" ".join(lines[0].split())]
    click.echo("\n".join(map(readable, shown)), err=True)
    sys.exit(code)


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Train variational autoencoders with inverse autoregressive flow on Ray, on one machine or many."""
    if threading.current_thread() is threading.main_thread():
        _handle_signals()


for command in (
    data,
    init,
    train,
    tune,
    submit,
    jobs,
    cluster,
    doctor,
    evaluate,
    sample,
    reconstruct,
    encode,
    generate,
    neighbours,
    export,
    runs,
    tensorboard,
    check,
    bench,
    config,
    completion,
):
    main.add_command(command)
