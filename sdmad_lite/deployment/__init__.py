"""What comes after the fit: `scoring` an archive into a table, `decisions`, and who pays: `subgroups`."""

from .scoring import ArchiveSummary, ScoringConfig, about, listed, score_archive, score_table, scores

__all__ = ["ArchiveSummary", "ScoringConfig", "about", "listed", "score_archive", "score_table", "scores"]
