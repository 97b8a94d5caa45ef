"""What a run will take: the work that is left, counted; the time that a piece of it takes, measured; the product."""
