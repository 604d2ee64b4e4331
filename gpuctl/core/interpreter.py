"""How a Python is started on a module: `python -m` would import a `json.py` of the working folder as its own."""

from __future__ import annotations

from collections.abc import Sequence

# Python 3.11 has -P for this. An empty entry of PYTHONPATH is the working folder too, and Python makes it absolute; the
# second look by `site` puts it back behind Python's own modules where a `.pth` names it, as for an editable install.
_RUN = (
    "import sys; sys.path[:] = filter(None, sys.path); import os, site; "
    "named = [] if sys.flags.ignore_environment else os.environ.get('PYTHONPATH', '').split(os.pathsep); "
    "here = os.getcwd() if '' in named and len(named) > 1 else ''; "
    "here in sys.path and here not in map(os.path.abspath, filter(None, named)) "
    "and (sys.path.remove(here), site.main()); "
    "import runpy; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def module_command(python: str, module: str, *words: str, flags: Sequence[str] = ()) -> list[str]:
    """As `python flags -m module words`, but that nothing is imported from the working folder."""
    return [python, *flags, "-c", _RUN, module, *words]
