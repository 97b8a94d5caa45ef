"""Training by gradient descent: one plain loop, and several trainings in parallel."""
