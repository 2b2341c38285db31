"""The controlled comparison: one autoregressive base, what is made of it, how it is pooled, and what each is worth.

``recipe`` reads the file that describes a study, ``arms`` makes ordinary recipes and the list of models of it, ``sets``
and ``measure`` score a model, ``run`` does it all and goes on where it was, ``findings``, ``summary`` and ``presented``
put the figures together.
"""

from diffembed.study.recipe import Study, read_study
from diffembed.study.run import plan_study, read_summary, run_study

__all__ = ["Study", "plan_study", "read_study", "read_summary", "run_study"]
