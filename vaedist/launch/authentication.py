"""Authentication with a cluster's token, and refusal of remote clusters without one.

Anybody who can connect to a Ray cluster can run code on it as its user. Ray can require a secret, the token
(`RAY_AUTH_MODE=token`). Every cluster that vaedist starts requires it. A cluster on another machine that does not is
used only with `--insecure`.
"""

import os
import re
import secrets
import socket
import tempfile
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
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray in the processes of a job


def default_token_path() -> Path:
    """Returns the file that Ray reads the token from if no variable names one."""
    return Path.home() / ".ray" / "auth_token"


def token_path() -> Path | None:
    """Returns the file that Ray would read the token from, None if there is none."""
    named = os.environ.get(TOKEN_PATH)
    path = Path(named) if named else default_token_path()
    return path if path.is_file() else None


def has_token() -> bool:
    """Returns True if Ray would find a token."""
    return bool(os.environ.get(TOKEN)) or token_path() is not None


def make_token(path: Path) -> None:
    """Writes a new token that only its owner can read; keeps an existing one.

    The file appears with its content, as other processes may start at the same time and read it.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f"{path.name}-") as file:  # readable by its owner
            file.write(secrets.token_hex(32))
            file.flush()
            os.link(file.name, path)
    except FileExistsError:
        return
    except OSError as error:
        raise StorageError(f"cannot write the token {path}: {error.strerror or error}") from error


def use_token(path: Path | None = None) -> None:
    """Makes Ray send the token, in this process and its children.

    Args:
        path: file of the token; None uses the one that Ray finds by itself.
    """
    if path is not None:
        os.environ.pop(TOKEN, None)
        os.environ[TOKEN_PATH] = str(path)
    os.environ[MODE] = "token"
    reload_authentication()


def authorize(address: str) -> str:
    """Prepares connections to the cluster at an address: uses its token if there is one.

    RAY_AUTH_MODE=disabled, as set by `--insecure`, means that the cluster requires no token.

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
    # Ray replaces 127.0.0.1 by the address that other machines see, where a local cluster does not listen. It does not
    # replace a host name that it does not recognise.
    return address if own is None or "://" in address else address.replace(LOOPBACK, "LOCALHOST")


def allow_insecure() -> None:
    """Allows clusters that require no token."""
    os.environ[MODE] = "disabled"
    reload_authentication()


def secure_local() -> None:
    """Makes the Ray that this process starts require a token, in a file that only its owner can read."""
    if MODE in os.environ:
        reload_authentication()  # Ray keeps a token that it has read, such as that of another cluster
    else:
        if not has_token():
            make_token(default_token_path())
        use_token()


def require_variables() -> None:
    """Checks that the variables of `--env-from-node`, which a job needs but does not carry, are set on this machine.

    Raises:
        ClusterError: a variable is not set.
    """
    for name in filter(None, os.environ.get(REQUIRED, "").split(",")):
        if name not in os.environ:
            raise ClusterError(
                f"{name} is not set in Ray's environment on {socket.gethostname()}, and the job needs it"
            )
