"""Results told: tables in the terminal, in Markdown and as JSON, figures as PNG and SVG, and one page that shows all.

Everything is read from result files (``evaluation/results.py``); nothing is measured here, but for the vectors of maps.
"""

from diffembed.report.collection import Collection, read_collection
from diffembed.report.points import DocumentMap, map_documents, read_map
from diffembed.report.report import Report, make_report, report_on, write_report

__all__ = [
    "Collection",
    "DocumentMap",
    "Report",
    "make_report",
    "map_documents",
    "read_collection",
    "read_map",
    "report_on",
    "write_report",
]
