"""What asks the lake: the analysts' questions as SQL, a command that prints their answers, a dashboard, a notebook."""
