"""The version: stated here, read by the build, the command line and the model card."""

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Return the versions of what decides a run's numbers."""
    import platform
    from importlib import metadata

    return {
        "unfreeze": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "timm")},
    }
