"""Schedules: when a job is to run again and again, kept in the store as runs that pools read."""
