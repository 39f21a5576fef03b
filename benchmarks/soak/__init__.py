"""A soak test of aiowsgi: mixed traffic for minutes or hours, and a verdict.

`python -m benchmarks.soak` starts a real `python -m aiowsgi`, sends it all that clients send, the
hostile and the broken included, and watches answers, memory, descriptors and threads. Standard
library only, but for the plot; Linux only. `README.md` in the folder above says how to read it.
"""
