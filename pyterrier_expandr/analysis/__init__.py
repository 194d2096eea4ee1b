"""Pictures and numbers that explain a result: one file for each question."""
