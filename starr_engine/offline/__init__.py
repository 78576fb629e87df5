"""Batch jobs over files: read, run, write, resume."""
