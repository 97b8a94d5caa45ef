"""Training by gradient: one plain loop, and several of it in parallel."""
