"""A study: a grid of settings, each measured on the same problems."""
