"""The kernel on a simulated loop: every step audited, no real time spent."""
