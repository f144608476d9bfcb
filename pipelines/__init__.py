"""Drivers: commands and Ray live only here."""
