"""Tasks that are made, not found: passkey, needle, contextual documents, and judged queries in a growing corpus.

Nothing here has to be fetched. Every text follows from a seed, so two people who name the same one ask the same.
"""
