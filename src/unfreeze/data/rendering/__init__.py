"""From decoded images to the views that a network sees."""
