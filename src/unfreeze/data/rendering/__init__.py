"""Rendering of decoded images as a network's input views."""
