"""``insight-rl doctor``: whether a run fits its machine, and how long it may take, before anything is downloaded."""
