"""`python -m gpuctl.embedded_cloud start|stop|status|clean|serve --state DIR`: one cloud process for a state folder."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from gpuctl.embedded_cloud import control
from gpuctl.embedded_cloud.place import Place


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; its answer is one JSON line on standard output, an error one line on standard error.

    0 done, 1 failed, 2 where it cannot be as it was asked for.
    """
    options = _parser().parse_args(arguments)
    os.umask(0o077)
    place = Place.at(options.state)
    try:
        if options.verb == "start":
            _say(asdict(control.start(place, _options(options))))
        elif options.verb == "stop":
            _say({"stopped": control.stop(place)})
        elif options.verb == "status":
            _say(control.status(place, control.Options(cache=_cache(options))))
        elif options.verb == "clean":
            _say(control.clean(place, control.Options(cache=_cache(options))))
        else:
            from gpuctl.embedded_cloud import daemon  # the one verb that pays for importing moto

            return daemon.serve(place, _options(options))
    except control.CloudProcessError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, control.OptionsError) else 1
    return 0


def _say(answer: dict[str, object]) -> None:
    print(json.dumps(answer), flush=True)


def _options(options: argparse.Namespace) -> control.Options:
    return control.Options(
        port=options.port,
        pythons=tuple(options.python),
        cache=_cache(options),
        hosts=options.hosts,
        host_command=options.host_command,
    )


def _cache(options: argparse.Namespace) -> Path | None:
    return options.cache.absolute() if options.cache else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gpuctl.embedded_cloud", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, does in (
        ("start", "make sure that a cloud runs"),
        ("stop", "end it, with all its hosts"),
        ("status", "say whether one runs"),
        ("clean", "remove what hosts have installed and none uses"),
        ("serve", "be it, in the foreground"),
    ):
        command = verbs.add_parser(verb, help=does)
        command.add_argument("--state", type=Path, required=True, metavar="DIR", help="the cloud's own folder")
        if verb != "stop":
            command.add_argument("--cache", type=Path, metavar="DIR", help="what hosts share; DIR/cache by default")
        if verb in ("start", "serve"):
            command.add_argument(
                "--port", type=int, default=0, metavar="N", help="0: the one it had, else any free one"
            )
            command.add_argument(
                "--python", action="append", default=[], metavar="PATH", help="a Python of an image; the first: of all"
            )
            command.add_argument("--no-hosts", dest="hosts", action="store_false", help="instances without hosts")
            command.add_argument("--host-command", help=argparse.SUPPRESS)  # a JSON list: another program as the host
    return parser


if __name__ == "__main__":
    sys.exit(main())
