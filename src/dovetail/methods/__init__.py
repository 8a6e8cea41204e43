"""Published compression methods, one a file."""
