"""Sections 4.2.1 and 4.2.2: what is seen on a film.

In the order in which a film meets them: `films` (the data set), `transforms` (random moves), `trunks` (shared
convolutional networks), `detection` (where is it?), `classification` (what is it?), `balance` (rare findings),
`saving` (a model as two files), `inference` (films to boxes and probabilities), `calibration` (probabilities to
answers), `gradcam` (where the classifier looked). `fast` holds faster twins of some of the code; read it last.
"""
