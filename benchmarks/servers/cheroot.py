"""Run cheroot's command line with room for as many idle connections as the rows open.

cheroot closes connections after their answer while ten others are idle, and has no option against
it. Takes cheroot's arguments.
"""

from importlib import import_module

IDLE_CONNECTIONS = 20_000

if __name__ == "__main__":
    # By name, because cheroot exists only in the benchmark's virtual environment.
    import_module("cheroot.server").HTTPServer.keep_alive_conn_limit = IDLE_CONNECTIONS
    import_module("cheroot.cli").main()
