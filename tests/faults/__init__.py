"""Every backend through every fault, in the middle of traffic, on a real server of the suite's own.

`subjects` says what has to be known of a backend, `traffic` is a dozen borrowers who notice what goes wrong,
and `books` compares the pool's connections with those that the server lists. A backend joins by a class in
`subjects` and a fixture for its server in `conftest`.
"""
