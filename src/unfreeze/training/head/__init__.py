"""The head of phase 1, solved as a convex problem."""
