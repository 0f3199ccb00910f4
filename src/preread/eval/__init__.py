"""Tasks, answerers and the harness that holds the ones against the others; the one source of quality figures."""
