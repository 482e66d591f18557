"""The kernel: who gets which connection, and when. Standard library only."""
