"""House style of every figure, and the two things most of them draw: a film and boxes on it.

Films are grey with fixed limits; boxes differ by line style and text as well as by colour, so that figures read in
grey print and for colour-blind readers. Each area has a module of its own below this package; every plot returns a
matplotlib Figure.
"""
