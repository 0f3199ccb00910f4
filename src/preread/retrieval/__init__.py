"""Which passages a question needs: embedder and retriever."""
