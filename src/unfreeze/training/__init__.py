"""Phase 1, phase 2, and the activations that both train on."""
