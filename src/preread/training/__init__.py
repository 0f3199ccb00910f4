"""The one training loop, for every objective of every method."""
