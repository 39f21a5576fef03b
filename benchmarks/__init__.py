"""Throughput, latency and memory of aiowsgi beside its peers: `python -m benchmarks`.

Standard library only, Linux only. Not part of the installed package. `README.md` in this folder
says what is measured, how, and why.
"""
