"""The line that stands once beside any score."""

NOTICE = "For teaching and research; not for clinical use."
