"""Training data: records, and sources that name the batch of any step."""
