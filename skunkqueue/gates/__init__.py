"""Gates: runs that wait for other runs to end."""
