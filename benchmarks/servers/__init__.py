"""Launchers for servers whose own command line is missing, or lacks something the runs need."""
