module espalier.dev/cluster/pause

go 1.26.0
