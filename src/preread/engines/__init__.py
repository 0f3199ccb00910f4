"""Engines: prompts in, text out as it is written (`base`); the torch engine (`local`)."""
