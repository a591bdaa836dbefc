"""A laboratory: hosts made of namespaces on this machine, on links of a chosen bandwidth; what runs in them is real."""
