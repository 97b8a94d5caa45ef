"""Ways to fine-tune, trained side by side on the same photos."""
