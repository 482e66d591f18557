"""What compiling the short way of a lease would bring, measured. Nothing else needs this, nothing is shipped.

`python -m benchmarks.prototypes` (or `make bench-compiled`) builds in a temporary directory, which takes a C
compiler, this interpreter's headers and a package index, and measures beside the pool as it is.
"""
