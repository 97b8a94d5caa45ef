"""Serve a finished run's model over HTTP: a JSON API and one HTML page."""

from unfreeze.serve.server import serve

__all__ = ["serve"]
