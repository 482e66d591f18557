"""Faults planted in a copy of the kernel, one at a time: does anybody notice?"""
