"""Arrays in, numbers out: scores, paired tests, forgetting."""
