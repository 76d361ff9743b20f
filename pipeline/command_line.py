"""The life of a job: its experiment from the command line, the record of its settings, its ending in plain words."""

import contextlib
import errno
import io
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from pipeline.beside import Beside, Work, at_the_end, under_way
from pipeline.configuration import write_text_atomically
from pipeline.errors import ConfigError, PipelineError, StorageError
from pipeline.experiment import Experiment, as_made
from pipeline.options import parse
from pipeline.run_folder import RunFolder
from pipeline.stored import yaml_text

USER_ERROR = 2
"""Exit status for what a user can put right, as argparse's own."""

_STORAGE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ESTALE,
}
"""What the file system says of places that are full, closed, read-only, no folders or gone; else it is a defect."""


CONFIGS = Path(__file__).resolve().parents[1] / "configs"
"""Those that come with the code."""


def job(
    main: Callable[[Experiment, RunFolder], None], description: str | None, *, requires_config: bool = False
) -> None:
    """Runs `main` with the experiment that the command line describes; the body of every script in jobs/.

    Scripts import stages inside `main`: Ray and torch take seconds, which neither --help nor a mistake should cost.

    Ends the process with status 0, 2 (an error that the user can put right, told in one message without a
    traceback), 130 (Ctrl-C) or 143 (SIGTERM). Any other exception is a defect and keeps its traceback.

    Args:
        main: What the job does.
        description: What --help says of it.
        requires_config: Refuse to begin without any `--config`, with the defaults alone.
    """
    with plain_endings():
        experiment = parse_experiment(description, sys.argv[1:])
        if requires_config:
            _require_config(sys.argv[1:])
        runs = Beside().do(Path(experiment.runs).resolve, f"Looking for {experiment.runs}")
        run = RunFolder(runs / experiment.name)
        with _recorded(experiment, run):
            main(experiment, run)


def _require_config(arguments: list[str]) -> None:
    """Checks that a configuration is named.

    Raises:
        ConfigError: None is; the message lists those that come with the code.
    """
    if any(argument.startswith("--config") for argument in arguments):
        return
    paths = sorted(CONFIGS.glob("*.yaml"))
    known = "\n".join(f"  --config configs/{path.name}\n      {_first_comment(path)}" for path in paths)
    raise ConfigError(
        "no --config is given; expected one, because the default settings are the paper's and take hours on a CPU:\n"
        + known
    )


def _first_comment(path: Path) -> str:
    return path.read_text().partition("\n")[0].removeprefix("# ")


def parse_experiment(description: str | None, arguments: list[str]) -> Experiment:
    """Returns the experiment that a job's `arguments` describe.

    Raises:
        ConfigError: As `parse` says, or an option of another method is given.
    """
    experiment = parse(Experiment(), description, arguments)
    _refuse_other_methods(experiment, arguments)
    return experiment


def _refuse_other_methods(experiment: Experiment, arguments: list[str]) -> None:
    """Checks that no option is given that has no effect. A file may have settings of several methods.

    Raises:
        ConfigError: An option is of another method than the one that is trained.
    """
    of_method = {name: name for name in experiment.method_names()}
    if not experiment.settings.plans:
        of_method["planning"] = next(name for name in of_method if getattr(experiment, name).plans)
    for argument in (argument for argument in arguments if argument.startswith("--")):
        option = argument.removeprefix("--").partition("=")[0]
        method = of_method.get(option.partition(".")[0], experiment.method)
        if "." in option and method != experiment.method:
            raise ConfigError(
                f"--{option} is a setting of {method}, but method is {experiment.method}; expected none of another "
                f"method: leave it out, or add --method {method}."
            )


@contextlib.contextmanager
def _recorded(experiment: Experiment, run: RunFolder) -> Iterator[None]:
    """Keeps the configuration in the run's folder: from the start in a new one, once the job succeeded in an old one.

    A new folder in which the job left nothing (a misspelled name, a setting that the job refused) is removed again.
    """
    writing = f"Writing the settings into {run.root}"
    new = Beside().do(lambda: _begin_record(experiment, run), writing)
    try:
        yield
        Beside().do(lambda: write_config(experiment, run), writing)
    finally:
        if new and sys.exc_info()[0]:
            at_the_end(lambda: _remove_bare(run), f"Looking whether anything is in {run.root}")


def _begin_record(experiment: Experiment, run: RunFolder) -> bool:
    """Returns whether the run's folder is new."""
    new = not run.root.exists()
    if not run.config.exists():
        write_config(experiment, run)
    return new


def _remove_bare(run: RunFolder) -> None:
    if [path.name for path in run.root.iterdir()] == [run.config.name]:
        shutil.rmtree(run.root)


@contextlib.contextmanager
def plain_endings() -> Iterator[None]:
    """Ends the process in plain words where the block was interrupted or met an error of the user's."""
    _replace_what_output_cannot_take()
    signal.signal(signal.SIGTERM, _interrupt)
    before = under_way()
    try:
        yield
    except OSError as error:
        if error.errno not in _STORAGE:
            raise
        print(f"error: {_storage_error(error)}", file=sys.stderr)
        _end(USER_ERROR, before)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        _end(USER_ERROR, before)
    except KeyboardInterrupt as interrupt:
        command = shlex.join(["python", *sys.argv])
        print(f"\nStopped; what is done is kept. Go on with: {command}", file=sys.stderr)
        _end(143 if isinstance(interrupt, _Terminated) else 130, before)


def _replace_what_output_cannot_take() -> None:
    """Lets a terminal or log in ASCII or Latin-1 show a question mark where it would end the job.

    Standard error needs none of it: Python writes an escape there.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _end(status: int, before: "set[Work[Any]]") -> NoReturn:
    """Ends the process, at once where storage that was asked since `before` has not answered.

    Python's own ending waits for what such a thread holds, for ever where that is the lock of the library for HDF5.
    """
    if under_way() - before:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _storage_error(error: OSError) -> StorageError:
    """Returns, in plain words, what the file system said to whichever stage wrote at that moment."""
    return StorageError(
        f"the file system refused: {error}; expected places that can be read and written, with room. Give another "
        "--runs or put that one right, and run the same command again: what is done is kept."
    )


def write_config(experiment: Experiment, run: RunFolder) -> None:
    """Writes the complete effective configuration into the run's folder; what is made already keeps its settings."""
    write_text_atomically(run.config, yaml_text(as_made(experiment, run)))


class _Terminated(KeyboardInterrupt):
    """SIGTERM, handled as Ctrl-C is: a spot instance's notice must not lose what is done."""


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _Terminated
