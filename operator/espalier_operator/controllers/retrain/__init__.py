"""The RetrainPolicy controller: the only writer of RetrainPolicy.status."""
