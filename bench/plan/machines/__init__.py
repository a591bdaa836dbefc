"""What a prediction knows of a machine: devices, links, nodes; as data, each value with its source."""
