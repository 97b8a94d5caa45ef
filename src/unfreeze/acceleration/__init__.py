"""Stages computed faster than by the library's own modules: the same function of the same weights."""
