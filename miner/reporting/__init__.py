"""What a report shows: its images, its counts, its plots and their numbers."""
