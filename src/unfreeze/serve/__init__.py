"""A finished run's model over HTTP: an API, and one page to try it on photos."""

from unfreeze.serve.server import serve

__all__ = ["serve"]
