"""Train several fine-tuning recipes on the same images and compare them."""
