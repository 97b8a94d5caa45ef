"""Activations of the training images: computed once, cached, found again."""
