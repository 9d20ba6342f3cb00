"""Why a score is what it is: which samples, classes, clusters and directions make it large."""
