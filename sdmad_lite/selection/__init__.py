"""Stage 2: which signs to trust, judged on the support set alone; and image evidence."""
