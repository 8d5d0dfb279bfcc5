"""What a run needs, before it is started: parameters, memory, FLOPs, hours, and the layout that fits."""
