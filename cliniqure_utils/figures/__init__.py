"""Figures: one module per notebook, what several notebooks draw (`shared`), and the house style (`style`).

Every plot returns a matplotlib Figure.
"""
