"""`cepe`: a frozen decoder attends to the states of an encoder that reads chunks side by side (arXiv 2402.16617)."""
