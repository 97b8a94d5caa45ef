"""How stages are computed faster than the library's own modules: the same function of the same weights."""
