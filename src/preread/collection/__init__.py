"""What a collection does: documents in (`sync`, `intake`), questions out (`asking`), and what it learns (`lessons`)."""
