"""How a Python is started on a module: `python -m` would import a `json.py` of the working folder as its own."""

from __future__ import annotations

# Python 3.11 has -P for this.
_RUN = (
    "import sys; sys.path[:] = filter(None, sys.path); import runpy; "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def module_command(python: str, module: str, *words: str) -> list[str]:
    """As `python -m module words`, but that nothing is imported from the working folder."""
    return [python, "-c", _RUN, module, *words]
