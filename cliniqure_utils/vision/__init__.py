"""Sections 4.2.1 and 4.2.2: what is seen on a film.

Films as tensors, the networks, and one path from films to what they say.
"""
