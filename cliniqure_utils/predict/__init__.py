"""From X-ray files to reports: the command `cliniqure predict`, which uses the models of a finished run."""
