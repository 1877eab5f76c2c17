"""Proxies on a port on which nothing listens, so that connections through them fail."""

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
EXCEPTIONS = ("no_proxy", "NO_PROXY", "no_grpc_proxy")


def set_dead_proxies(patch):
    """Sets the proxies for all hosts, with a MonkeyPatch."""
    for name in PROXIES:
        patch.setenv(name, "http://127.0.0.1:9")
        patch.setenv(name.upper(), "http://127.0.0.1:9")
    for name in EXCEPTIONS:
        patch.setenv(name, "")
        patch.delenv(name)
