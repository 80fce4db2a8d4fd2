"""From tables to pages: queries, figures, wording."""
