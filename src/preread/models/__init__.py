"""Where decoders come from: a hub id, a folder, or the packaged default; and their fingerprint."""
