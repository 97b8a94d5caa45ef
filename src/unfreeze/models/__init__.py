"""Pretrained backbones: where they come from, their stages, and what of them trains."""
