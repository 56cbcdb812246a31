"""What comes after the fit: scoring an archive."""
