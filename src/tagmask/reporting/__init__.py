"""The parts of a report: an evaluation as read, its numbers, pictures and record, and the page."""
