"""Address of the dashboard that jobs are submitted to."""

import os
from urllib.parse import urlsplit

from vaedist.errors import ClusterError
from vaedist.launch.local.cluster import local_clusters

ADDRESS = "RAY_API_SERVER_ADDRESS"  # also read by Ray's own commands


def known_address() -> str | None:
    """Returns the default URL of the dashboard: RAY_API_SERVER_ADDRESS, or that of the only local cluster, or None."""
    if address := os.environ.get(ADDRESS):
        return address
    clusters = local_clusters()
    return clusters[0].dashboard if len(clusters) == 1 else None


def jobs_address(address: str | None) -> str:
    """Returns the given URL of the dashboard, or the default one.

    Raises:
        ClusterError: no address is given, and there is no local cluster or more than one.
    """
    if address := address or known_address():
        return address
    there = ", ".join(cluster.dashboard for cluster in local_clusters()) or "none"
    raise ClusterError(f"which cluster? give --address http://HEAD:8265, or set {ADDRESS}; local clusters: {there}")


def checked_url(address: str) -> str:
    """Returns an address without a trailing slash.

    Raises:
        ClusterError: it is not a URL, or contains a user name or a password.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClusterError(f"address {address}: must be the URL of the cluster's dashboard, as in http://HEAD:8265")
    if parts.username or parts.password:
        raise ClusterError(f"address of {parts.hostname}: must not contain a user name or a password")
    return address.rstrip("/")
