"""`kv`: the decoder's own keys and values of each passage, thinned in closed form, without training."""
