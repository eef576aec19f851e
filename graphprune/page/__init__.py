"""The report as one HTML page: what is in it, where things are drawn, how it is written."""
