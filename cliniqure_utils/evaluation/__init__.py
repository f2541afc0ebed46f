"""Sections 6.2 and 7: the stress panel of the metrics, the claim ledger, and the page of a run."""
