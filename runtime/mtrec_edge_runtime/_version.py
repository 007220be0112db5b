"""The version of mtrec-edge, stated once."""

__version__ = "0.1.0"
