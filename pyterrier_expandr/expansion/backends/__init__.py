"""LLM engines behind one protocol: requests in, generations out."""
