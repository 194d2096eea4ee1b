"""Records: what an artefact's files were when it was made, and whether they still are. A folder in, a verdict out.

`manifest` writes and compares them, `checked` remembers what was read completely, `verify` reads all below a folder.
To change: what a record holds, and what is left out of it.
"""
