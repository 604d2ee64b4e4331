"""What goes up to a host, as values, and which names stay behind unless asked for. No file is read here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePath

IGNORE_FILE = ".gpuctlignore"
MOST_BYTES = 1024**3
"""Of all that goes up."""
SHOWN_NAMES = 12

REGENERATED = "version control, virtualenvs and caches"
DEFAULT = "by default"
SECRET = "may hold secrets"  # noqa: S105  (a reason, for people)
IGNORED = f"in {IGNORE_FILE}"
DOWNLOADED = "downloaded from a run"
NOWHERE = "links that lead nowhere"
NO_FILE = "neither files nor folders"

_REGENERATED_FOLDERS = frozenset(
    {
        *{".git", ".hg", ".svn", ".bzr", ".jj", "__pycache__", ".venv", ".tox", ".nox", "node_modules", ".eggs"},
        *{".cache", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints", ".hypothesis"},
    }
)
_REGENERATED_ENDINGS = (".pyc", ".pyo", ".DS_Store")
_FOLDERS = frozenset({"wandb", "lightning_logs", "mlruns", ".idea", ".vscode", ".vs", ".fleet", ".zed"})
_TOP_FOLDERS = frozenset({"outputs", "runs", "build", "dist"})
"""Only beside the code: deeper down, these are names of packages too."""
_SECRET_FOLDERS = frozenset({".ssh", ".aws", ".gnupg", ".kube", ".azure", ".gcloud", ".docker"})
_SECRET_FILES = (
    *(".env", ".env.*", "*.env", ".envrc", "*.pem", "*.key", "*.p12", "*.pfx", "*.ppk", "*.jks", "*.kdbx"),
    *("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "*.tfvars", "*.tfvars.json", "*.tfstate", "*.tfstate.backup"),
    *(".netrc", "_netrc", ".pypirc", ".pgpass", ".npmrc", ".git-credentials", ".boto", "kaggle.json", "credentials"),
    *("credentials.json", "client_secret*.json", "service-account*.json", "service_account*.json"),
)
_SECRET_PATHS = frozenset({".streamlit/secrets.toml", ".dvc/config.local", ".config/gcloud"})
_TOKENS = {".git": frozenset({"config", "config.worktree", "fetch_head"}), ".hg": frozenset({"hgrc"})}
"""What version control keeps addresses in, which may hold a token."""
_NO_SECRETS = frozenset(
    {
        *(".env.example", ".env.sample", ".env.template", ".env.dist"),
        *("example.env", "sample.env", "template.env", "dist.env"),
    }
)


@dataclass(frozen=True)
class NotUploaded:
    """How many names stay behind for one reason, and the first of them."""

    why: str
    names: tuple[str, ...]
    count: int


@dataclass(frozen=True)
class UploadSummary:
    """How much goes up, the largest file of it, and what stays behind."""

    files: int
    bytes: int
    largest: str | None = None
    largest_bytes: int = 0
    left_out: tuple[NotUploaded, ...] = ()


@dataclass(frozen=True)
class UploadContent:
    """All that goes up, by its name in the workspace: files (from where), links (to what), folders that are empty.

    Where files are is told without links in the path. `sizes` are their bytes as planned.
    """

    files: Mapping[str, str] = field(default_factory=dict, hash=False)
    links: Mapping[str, str] = field(default_factory=dict, hash=False)
    folders: tuple[str, ...] = ()
    summary: UploadSummary = UploadSummary(0, 0)
    sizes: Mapping[str, int] = field(default_factory=dict, hash=False)


def is_regenerated(name: str, *, folder: bool) -> bool:
    """Whether what is called so is made again by itself: version control, virtualenvs, caches, bytecode."""
    return name in _REGENERATED_FOLDERS if folder else name.endswith(_REGENERATED_ENDINGS)


def is_secret(path: PurePath, *, folder: bool) -> bool:
    """Whether keys and passwords are kept under such a name, in such a folder; in any case of letters."""
    *above, name = [part.lower() for part in path.parts] or [""]
    if f"{above[-1] if above else ''}/{name}" in _SECRET_PATHS:
        return True
    if folder:
        return name in _SECRET_FOLDERS
    if any(name in names and kept in above for kept, names in _TOKENS.items()):
        return True
    return name not in _NO_SECRETS and any(fnmatchcase(name, pattern) for pattern in _SECRET_FILES)


def leads_to_secret(path: PurePath) -> bool:
    """Whether a path is secret by any part of it, whether its last one is a file or a folder."""
    return any(is_secret(part, folder=True) for part in (path, *path.parents)) or is_secret(path, folder=False)


def readable(name: str) -> str:
    """A file's name as text that can be shown and stored: what of it is not UTF-8 is replaced."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def is_left_out(name: str, *, top: bool) -> bool:
    """Whether a folder that is called so holds what tools leave behind. `top`: it lies beside the code."""
    return name in _FOLDERS or (top and name in _TOP_FOLDERS)
