"""What a person reads: tables, charts, pages."""
