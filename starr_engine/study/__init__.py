"""Studies: the synthetic tasks, and what is measured on them."""
