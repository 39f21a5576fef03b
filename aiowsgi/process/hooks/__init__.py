"""Functions of the user that are called at the beginning and at the end of a process."""
