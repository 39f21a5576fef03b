"""Throughput, latency and memory of aiowsgi beside its peers: `python -m benchmarks`.

The harness is standard library only and Linux only; the pictures need matplotlib. Not part of the
installed package. `README.md` in this folder says what is measured, how, and why.
"""
