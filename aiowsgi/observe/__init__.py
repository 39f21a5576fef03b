"""What people see of a running server: logs, warnings, and what it is doing now.

Nothing here decides anything: these modules are told what happens, and write or return it.
"""
