"""What a supervisor decides. Pure: told what has happened and when, it returns what to do."""
