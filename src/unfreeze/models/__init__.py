"""Pretrained backbones: loading, stages, freezing, and saved models."""
