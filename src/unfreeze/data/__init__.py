"""Image data: reading, checking, splitting and rendering."""
