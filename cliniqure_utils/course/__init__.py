"""The course as a program: running the notebooks, comparing and grading runs, handing them out."""
