"""preread: let a language model read long documents once, ahead of time, and ask a thousand times, cheaply."""
