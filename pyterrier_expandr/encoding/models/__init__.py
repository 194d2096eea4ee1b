"""Encoders and language models by name, and the one architecture that no maintained library has."""
