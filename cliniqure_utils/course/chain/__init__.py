"""The chain: the notebooks one after another, each skipped while nothing it depends on has changed.

`run_chain` checks every name and type first, holds a lock on the run folder, and keeps run.json up to date, so that a
run that was stopped in any way goes on where it was. The command line of it is `cliniqure run`.
"""

from cliniqure_utils.course.chain.execute import NotebookFailed
from cliniqure_utils.course.chain.runner import out_of_date, run_chain

__all__ = [
    "NotebookFailed",
    "out_of_date",
    "run_chain",
]
