"""From recordings to what people read: `build` the report, then show it as table and figures.

Importing this package loads neither rich nor matplotlib; `table`, `live` and `figures` do.
"""

from parity.report.build import build_report, to_json

__all__ = ["build_report", "to_json"]
