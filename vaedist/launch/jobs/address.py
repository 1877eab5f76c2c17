"""The dashboard through which jobs are sent to a cluster."""

import os
from urllib.parse import urlsplit

from vaedist.errors import ClusterError
from vaedist.launch.local.cluster import local_clusters

ADDRESS = "RAY_API_SERVER_ADDRESS"  # as Ray's own commands name it


def known_address() -> str | None:
    """Returns the dashboard's URL where none is given: RAY_API_SERVER_ADDRESS, or that of the one local cluster."""
    if address := os.environ.get(ADDRESS):
        return address
    clusters = local_clusters()
    return clusters[0].dashboard if len(clusters) == 1 else None


def jobs_address(address: str | None) -> str:
    """Returns the dashboard's URL to use.

    Raises:
        ClusterError: none is given and there is none, or there are several to choose from.
    """
    if address := address or known_address():
        return address
    there = ", ".join(cluster.dashboard for cluster in local_clusters()) or "none"
    raise ClusterError(f"which cluster? give --address http://HEAD:8265, or set {ADDRESS}; local clusters: {there}")


def checked_url(address: str) -> str:
    """Returns an address without a slash at its end.

    Raises:
        ClusterError: it is not a URL, or holds a name or a password.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClusterError(f"address {address}: must be the URL of the cluster's dashboard, as in http://HEAD:8265")
    if parts.username or parts.password:
        raise ClusterError(f"address of {parts.hostname}: must not hold a name or a password")
    return address.rstrip("/")
