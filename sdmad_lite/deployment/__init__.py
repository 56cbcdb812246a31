"""What comes after the fit: scoring an archive, resumed and by several processes, into a table that others read."""

from .scoring import ArchiveSummary, ScoringConfig, about, listed, score_archive, score_table, scores

__all__ = ["ArchiveSummary", "ScoringConfig", "about", "listed", "score_archive", "score_table", "scores"]
