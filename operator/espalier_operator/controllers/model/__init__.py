"""The RegularizedModel controller: the only writer of RegularizedModel.status."""
