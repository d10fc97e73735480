"""What is known of each paper of the survey: records, and what was measured."""
