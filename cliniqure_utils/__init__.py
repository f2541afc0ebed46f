"""CliniQure: from a chest X-ray to a diagnostic report. For teaching, not for clinical use."""

__version__ = "0.1.0"
