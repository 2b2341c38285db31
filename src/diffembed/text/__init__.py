"""What a model reads: files, chunks, packed batches of token ids."""
