"""`longlora`: a window extended by cheap fine-tuning with shifted sparse attention (LongLoRA, arXiv 2309.12307)."""
