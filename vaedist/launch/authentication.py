"""Authentication: the token of a cluster, and the addresses that are refused without one.

Whoever reaches a Ray cluster runs code on it as its user. Ray can ask for one secret, the token
(`RAY_AUTH_MODE=token`). Every cluster that vaedist starts asks for it; a cluster on another machine that does not is
used only if the user says so.
"""

import os
import re
import secrets
import socket
from pathlib import Path

from vaedist.errors import ClusterError, StorageError
from vaedist.launch.addresses import LOOPBACK, is_loopback
from vaedist.launch.local.cluster import find_cluster
from vaedist.launch.ray_internals import reload_authentication
from vaedist.launch.training.proxies import bypass_proxies

MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
SECRET_NAME = re.compile(r"secret|token|passw|passphrase|credential|private|api_?key|access_?key|auth", re.IGNORECASE)
REQUIRED = "VAEDIST_REQUIRED_ENV"  # comma-separated names of variables that every process of a job needs
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for what it runs as a job


def default_token_path() -> Path:
    """Returns the file in which Ray looks for a token that no variable names."""
    return Path.home() / ".ray" / "auth_token"


def token_path() -> Path | None:
    """Returns the file from which Ray would read the token, None if there is none."""
    named = os.environ.get(TOKEN_PATH)
    path = Path(named) if named else default_token_path()
    return path if path.is_file() else None


def has_token() -> bool:
    """Returns True if Ray would find a token."""
    return bool(os.environ.get(TOKEN)) or token_path() is not None


def make_token(path: Path) -> None:
    """Writes a new token that only its owner may read; an existing one stays.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise StorageError(f"cannot write the token {path}: {error.strerror or error}") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))


def use_token(path: Path | None = None) -> None:
    """Makes Ray in this process, and in those that it starts, show a token.

    Args:
        path: its file; None takes the one that Ray finds by itself.
    """
    if path is not None:
        os.environ.pop(TOKEN, None)
        os.environ[TOKEN_PATH] = str(path)
    os.environ[MODE] = "token"
    reload_authentication()


def authorize(address: str) -> str:
    """Prepares requests to the cluster at an address: with its token, where there is one.

    RAY_AUTH_MODE=disabled, which `--insecure` sets, says that the cluster has none.

    Args:
        address: HOST:PORT, or the URL of a dashboard.

    Returns:
        The address in the form that Ray needs.

    Raises:
        ClusterError: the cluster is on another machine, there is no token, and `allow_insecure` was not called.
    """
    bypass_proxies()
    own = find_cluster(address)
    if os.environ.get(MODE, "").lower() == "disabled" or IN_JOB in os.environ:
        pass
    elif own is not None and not (os.environ.get(TOKEN) or os.environ.get(TOKEN_PATH)):
        use_token(Path(own.token))
    elif has_token():
        use_token()
    elif not is_loopback(address):
        raise ClusterError(
            f"address {address} is not on this machine, and there is no token for it: put the cluster's into "
            f"{default_token_path()}, or name its file in {TOKEN_PATH}; --insecure continues without one"
        )
    # Ray replaces 127.0.0.1 by the address that other machines see, at which nobody listens; it does not replace a name
    # that it does not know.
    return address if own is None or "://" in address else address.replace(LOOPBACK, "LOCALHOST")


def allow_insecure() -> None:
    """Allows clusters that ask for no token."""
    os.environ[MODE] = "disabled"
    reload_authentication()


def secure_local() -> None:
    """Makes the Ray that this process starts ask for a token, kept in a file that only its owner can read."""
    if MODE not in os.environ:
        if not has_token():
            make_token(default_token_path())
        use_token()


def require_variables() -> None:
    """Checks that this machine has the variables that a job needs and that, being secret, were not sent with it.

    Raises:
        ClusterError: a variable is not set.
    """
    for name in filter(None, os.environ.get(REQUIRED, "").split(",")):
        if name not in os.environ:
            raise ClusterError(
                f"{name} is not set in Ray's environment on {socket.gethostname()}, and the job needs it"
            )
