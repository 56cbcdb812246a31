"""What comes after the fit: `scoring` an archive into a table, `decisions`, who pays: `subgroups`.

Another hospital: `sites`; a `memory` of confirmed cases, from which it learns while it works.
"""

from .scoring import ArchiveSummary, ScoringConfig, about, listed, score_archive, score_table, scores

__all__ = ["ArchiveSummary", "ScoringConfig", "about", "listed", "score_archive", "score_table", "scores"]
