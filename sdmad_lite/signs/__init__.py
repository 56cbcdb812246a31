"""What to look for: sign banks, their linter, and signs written by a language model."""
