"""Proxies that nobody listens at, for tests: what goes through one fails."""

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
EXCEPTIONS = ("no_proxy", "NO_PROXY", "no_grpc_proxy")


def set_dead_proxies(patch):
    """Has a MonkeyPatch set them for all hosts."""
    for name in PROXIES:
        patch.setenv(name, "http://127.0.0.1:9")
        patch.setenv(name.upper(), "http://127.0.0.1:9")
    for name in EXCEPTIONS:
        patch.setenv(name, "")
        patch.delenv(name)
