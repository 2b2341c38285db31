"""What a model writes: vectors, their quantized forms and how to compare them."""
