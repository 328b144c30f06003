"""What was asked: jobs and where they are stored."""
