"""From X-ray files to reports: what `cliniqure predict` does with the models of a finished run."""
