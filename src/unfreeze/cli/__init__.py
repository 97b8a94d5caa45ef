"""The command line: parse the arguments, make one call, print.  torch is imported only by commands that need it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Literal

from cyclopts import App, CycloptsError

from unfreeze.cli.parameters import UserPath
from unfreeze.errors import ConfigError, UnfreezeError
from unfreeze.version import __version__

USER_MISTAKE, OUR_MISTAKE, INTERRUPTED = 2, 1, 130

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

    print(write_report(folder, photos))


@app.command
def track(run: UserPath, /, *, to: Literal["tensorboard", "mlflow"]) -> None:
    """Write a finished run into a tracker, and print its address there.

    Args:
        run: The run's folder.
        to: tensorboard writes into the run's folder; mlflow to MLFLOW_TRACKING_URI, or to mlflow.db in this folder.
    """
    from unfreeze.runs.trackers import track_run

    print(track_run(run, to))


@app.command
def serve(run: UserPath, /, *, host: str = "127.0.0.1", port: int = 8000, device: str = "auto") -> None:
    """Serve the model of a finished run: a page to try it on photos, and an HTTP API.

    Args:
        run: The run's folder.
        host: The address to listen on. With any but 127.0.0.1, other machines can use it: there is no authentication.
        port: 0 takes any that is free.
        device: auto, cpu, cuda, mps.
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
            print(f"{family:12} {member}")
    names = [member for members in found.values() for member in members]
    if name in names or (not names and "/" in name):  # names with a weights tag are not listed
        print("depths       " + ", ".join(stage_names(name)))
    elif not names:
        raise ConfigError(f"No model's name contains {name!r}.", mend="unfreeze models")


@app.command
def doctor() -> None:
    """Show what unfreeze finds on this machine, and what is wrong with it."""
    from unfreeze.doctor import examine

    for finding in examine():
        print(f"{finding.name:18} {finding.text}")


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line on ``words`` (None: ``sys.argv``); exit with 2 for the user's mistakes and 1 for ours."""
    try:
        arguments = sys.argv[1:] if words is None else words
        app(_in_present_names(arguments), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        print(f"unfreeze: {_reason(error)}", file=sys.stderr)
        sys.exit(USER_MISTAKE)
    except UnfreezeError as error:
        print(f"unfreeze: {error}", file=sys.stderr)
        sys.exit(USER_MISTAKE)
    except KeyboardInterrupt:
        print("unfreeze: interrupted; an unfinished run has no verdict.json", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # At exit Python flushes stdout again, which would raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(OUR_MISTAKE)
    except Exception:
        traceback.print_exc()
        print("unfreeze: this is our mistake, not yours. Please report it with the lines above.", file=sys.stderr)
        sys.exit(OUR_MISTAKE)


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
