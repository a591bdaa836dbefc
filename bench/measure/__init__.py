"""What is measured, one noun a file."""
