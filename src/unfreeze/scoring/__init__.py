"""What the models predict for held-out images, what that proves, and what was forgotten of the original task."""
