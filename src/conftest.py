"""Which modules have no doctests to look for: an adapter's import needs the framework that it adapts to."""

collect_ignore = [
    f"diffembed/integrations/{name}.py" for name in ("haystack", "langchain", "llamaindex", "mteb", "sklearn")
]
