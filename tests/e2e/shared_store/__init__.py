"""Three relay processes on one real Redis: what limits and budgets hold, and what callers see when something fails."""
