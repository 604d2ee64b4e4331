"""Whatever asks for a server is run on the embedded host, and in the prove tier on OpenSSH's too."""

from __future__ import annotations

import pytest
from remote_servers import relay, server, servers

__all__ = ["relay", "server", "servers"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each kind of server is a parameter."""
    if "server" in metafunc.fixturenames:
        kinds = ["embedded", pytest.param("openssh", marks=pytest.mark.prove)]
        metafunc.parametrize("server", kinds, indirect=True)
