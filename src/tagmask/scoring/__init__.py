"""How an evaluation adds up: what belongs together, the rows to beat, means and intervals, the tables."""
