"""The worker's side: executes runs, in a process or thread of its own. It opens no store and decides nothing."""
