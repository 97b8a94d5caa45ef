"""The forecast of a run's time: the remaining work, counted, times the seconds of each piece, measured."""
