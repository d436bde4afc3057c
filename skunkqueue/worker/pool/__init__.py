"""The pool's side: claims, leases, commits and monitors its workers."""
