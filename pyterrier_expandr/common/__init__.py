"""What every room may use: JSONL files, checks on the columns of frames, what a model or a file is (fingerprints).

Imports nothing of this package.
"""
