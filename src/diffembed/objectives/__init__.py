"""Objectives: pure functions from arrays and tensors to a loss. They own no model, log nothing and gather nothing."""
