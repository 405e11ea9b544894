"""Charts of numbers, charts of an evaluation, tiles of slices. Nothing else imports Matplotlib."""
