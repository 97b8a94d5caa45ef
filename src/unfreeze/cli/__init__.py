"""The command line: parse the arguments, make one call, print.  torch is imported only by commands that need it."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Sequence
from typing import Literal

from cyclopts import App, CycloptsError

from unfreeze.cli.parameters import UserPath
from unfreeze.cli.streams import drop_output, quiet_packages, settle_streams
from unfreeze.errors import ConfigError, UnfreezeError
from unfreeze.screen import echo, tell
from unfreeze.version import __version__

USER_MISTAKE, OUR_MISTAKE, INTERRUPTED = 2, 1, 130
_RUN = "run has no verdict.json"
UNFINISHED = {"train": _RUN, "demo": _RUN, "compare": "comparison has no compare.json"}  # by command
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

app = App(
    name="unfreeze",
    help="Fine-tune pretrained image classifiers on your own photos in two phases, and prove what phase 2 gained.",
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,  # ``main`` handles it
)


# These commands are imported when they are called: pydantic takes as long to import as everything else here.
app.command("unfreeze.cli.train:train", help="Train on a folder of labelled photos, and print the verdict.")
app.command(
    "unfreeze.cli.train:compare", help="Train our recipe and common ones on the same photos: one table, one plot."
)
app.command("unfreeze.cli.train:demo", help="Draw photos of metal surfaces with defects, and train on them.")
app.command("unfreeze.cli.export:export", help="Export the model of a finished run: ONNX and other formats.")
app.command("unfreeze.cli.predict:predict", help="Predict photos with the model of a finished run.")
app.command("unfreeze.cli.predict:explain", help="Draw heatmaps: where in photos the evidence for a class is.")
app.command("unfreeze.cli.predict:evaluate", name="eval", help="Score the model of a finished run on other photos.")


@app.command
def report(run: UserPath, /, *, photos: UserPath | None = None) -> None:
    """Write the report of a finished run again, and print its path.

    Args:
        run: The run's folder.
        photos: The folder where the run's photos are now: they are found by their content. Default: where they were.
    """
    from unfreeze.runs.folder import open_run

    folder = open_run(run)

    from unfreeze.report import write_report  # after the folders for Matplotlib's files are known

    tell(str(write_report(folder, photos)))


@app.command
def track(run: UserPath, /, *, to: Literal["tensorboard", "mlflow"]) -> None:
    """Write a finished run into a tracker, and print its address there.

    Args:
        run: The run's folder.
        to: tensorboard writes into the run's folder; mlflow to MLFLOW_TRACKING_URI, or to mlflow.db in this folder.
    """
    from unfreeze.runs.trackers import track_run

    tell(track_run(run, to))


@app.command
def serve(run: UserPath, /, *, host: str = "127.0.0.1", port: int = 8000, device: str = "auto") -> None:
    """Serve the model of a finished run: a page to try it on photos, and an HTTP API.

    Args:
        run: The run's folder.
        host: The address to listen on. With any but 127.0.0.1, other machines can use it: there is no authentication.
        port: 0 takes any that is free.
        device: auto, cpu, gpu, cuda, cuda:1 (or 1), mps.
    """
    from unfreeze.serve import serve as serve_run

    serve_run(run, host, port, device)


@app.command
def models(name: str = "", /) -> None:
    """List the backbones whose names contain NAME; for a full name, also the values of --depth.

    Args:
        name: Part of a name, or a full one, such as efficientnet_lite0.
    """
    from unfreeze.models.backbones import list_models, stage_names

    found = list_models(name)
    for family, members in found.items():
        for member in members:
            tell(f"{family:12} {member}")
    names = [member for members in found.values() for member in members]
    if name in names or (not names and "/" in name):  # names with a weights tag are not listed
        tell("depths       " + ", ".join(stage_names(name)))
    elif not names:
        raise ConfigError(f"No model's name contains {name!r}.", mend="unfreeze models")


@app.command
def doctor() -> None:
    """Show what unfreeze finds on this machine, and what is wrong with it."""
    from unfreeze.doctor import examine

    for finding in examine():
        tell(f"{finding.name:18} {finding.text}")


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line on ``words`` (None: ``sys.argv``); exit with 2 for the user's mistakes and 1 for ours.

    A reader of stdout that has read enough, as ``head`` does, is no mistake.
    """
    settle_streams()
    code = 0
    try:
        with quiet_packages():
            code = _run(sys.argv[1:] if words is None else words)
        sys.stdout.flush()  # at exit, an error would be a traceback
    except BrokenPipeError:
        drop_output()
    except OSError as error:  # of stdout: ``_run`` lets no other through
        drop_output()
        echo(f"unfreeze: the output can't be written: {error.strerror}")
        code = USER_MISTAKE
    sys.exit(code)


def _run(words: Sequence[str]) -> int:
    """Run a command, print its error if it has one, and return the exit code."""
    try:
        app(_in_present_names(words), exit_on_error=False, print_error=False)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # of rich, which prints help and tables
            return 0
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except CycloptsError as error:
        echo(f"unfreeze: {_reason(error)}")
        return USER_MISTAKE
    except UnfreezeError as error:
        echo(f"unfreeze: {error}")
        return USER_MISTAKE
    except KeyboardInterrupt:
        unfinished = UNFINISHED.get("".join(words[:1]))
        echo("unfreeze: interrupted" + (f"; an unfinished {unfinished}" if unfinished else ""))
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        echo(traceback.format_exc().rstrip())
        echo("unfreeze: this is our mistake, not yours. Please report it with the lines above.")
        return OUR_MISTAKE
    return 0


def _in_present_names(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with former flags of ``train`` under their present names."""
    from unfreeze.config import FORMER_NAMES

    if words[:1] != ["train"]:
        return list(words)
    flags = {f"--{former}".replace("_", "-"): f"--{name}".replace("_", "-") for former, name in FORMER_NAMES.items()}
    end = words.index("--") if "--" in words else len(words)  # no flags stand behind it
    split = [word.partition("=") for word in words[:end]]
    return [*(flags.get(flag, flag) + equals + value for flag, equals, value in split), *words[end:]]


def _reason(error: CycloptsError) -> str:
    """Return the error message; a value that pydantic refuses is named by its flag, without pydantic's jargon."""
    if type(error.__cause__).__module__.partition(".")[0] != "pydantic_core":
        return str(error)
    from pydantic import ValidationError

    from unfreeze.config import explain

    assert isinstance(error.__cause__, ValidationError)
    return str(explain(error.__cause__))
