"""A library on disk: documents, passages, vectors and memories, added and forgotten as wholes (`store`)."""
