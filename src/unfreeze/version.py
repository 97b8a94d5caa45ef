"""The version: stated here, read by the build, the command line and the model card."""

__version__ = "0.1.0"
