"""Text written by a language model behind a server."""

from diffembed.synthesis.client import Client, Reply, Sampling, Usage

__all__ = ["Client", "Reply", "Sampling", "Usage"]
