"""What every package here may use: JSONL files, checks on data frame columns, and fingerprints of models and files.

Imports nothing else from this package.
"""
