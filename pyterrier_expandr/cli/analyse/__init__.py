"""`expandr analyse ...`: what expansions look like, and what they change. Files in, numbers and figures out.

`texts` looks at the passages, `vectors` at where they move queries, `rankings` at what that does to results. To change:
a command. What it computes belongs in the package `analysis`.
"""

from . import rankings, texts, vectors  # noqa: F401  their commands register themselves with the group
