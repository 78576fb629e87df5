"""The report of a study: numbers over all tasks, figures, and the files that hold them."""
