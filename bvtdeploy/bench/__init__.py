"""Benchmarks against other runtimes: times in this process, and executed instructions of an emulated board."""
