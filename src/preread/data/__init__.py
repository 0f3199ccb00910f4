"""Files become documents (`ingest`), documents become passages (`passages`)."""
