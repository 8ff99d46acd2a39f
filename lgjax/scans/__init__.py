"""What a user has, read strictly: volumes, orientations, layouts, subjects, pictures."""
