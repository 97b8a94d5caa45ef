"""Phase 1's head, solved as a convex problem."""
