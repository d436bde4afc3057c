"""Task scheduling for humans who use Python."""
