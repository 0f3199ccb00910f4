"""`lloco`: documents compressed offline into summary embeddings (LLoCO, arXiv 2404.07979)."""
