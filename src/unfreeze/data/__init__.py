"""Photos in, samples and splits and rendered views out."""
