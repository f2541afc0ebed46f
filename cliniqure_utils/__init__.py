"""CliniQure: from a chest X-ray to a diagnostic report. For teaching, not for clinical use."""

from cliniqure_utils.runs import keep_freed_memory

__version__ = "0.1.0"

keep_freed_memory()
