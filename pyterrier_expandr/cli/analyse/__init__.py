"""`expandr analyse ...`: what expansions look like, and what they change. Files in, numbers and pictures out.

`texts` looks at the passages, `vectors` at where they move queries, `rankings` at what that does to results. To touch:
a command. What it computes belongs in the room `analysis`.
"""

from . import rankings, texts, vectors  # noqa: F401  their commands register themselves with the group
