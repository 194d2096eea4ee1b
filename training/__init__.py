"""Training of the retriever and of the LLM; installed as `pyterrier_expandr.training`."""
