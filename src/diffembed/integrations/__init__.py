"""``Encoder`` in the interfaces of other frameworks, one module each: ``langchain``, ``llamaindex``, ``haystack``,
``sklearn``, ``mteb``. Importing one needs the framework, which an extra of the same name installs."""
