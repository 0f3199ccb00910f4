"""What is attached to a decoder: its anatomy (`hf`), low-rank adapters (`lora`)."""
