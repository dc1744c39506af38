"""What any process needs: meshes, other processes, signals, workdirs, locks and atomic files."""
