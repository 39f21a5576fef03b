"""What ``--debug`` answers where the application has failed. Imported only with that option."""
