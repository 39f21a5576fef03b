"""What an option is, and what a subject of options is. No option is defined in here."""
