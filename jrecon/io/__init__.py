"""Files at the outer edge: what is read from and written for other programs."""
