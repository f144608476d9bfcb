"""Selected pairs in the formats that benchmark builders open, a file for each consumer."""
