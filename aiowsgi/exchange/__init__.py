"""One request and its response, and what the rooms around it know of each other."""
